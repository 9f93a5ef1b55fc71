//! Hosts with a real TCP stack (smoltcp).

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use crate::random::Random;

/// A link device over queues of frames.
#[derive(Debug, Default)]
struct QueueDevice {
    incoming: Vec<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    mtu: usize,
}

struct Receive(Vec<u8>);
struct Send<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Receive {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for QueueDevice {
    type RxToken<'a> = Receive;
    type TxToken<'a> = Send<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Receive, Send<'_>)> {
        if self.incoming.is_empty() {
            return None;
        }
        Some((Receive(self.incoming.remove(0)), Send(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Send<'_>> {
        Some(Send(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// One end of a connection: a TCP stack, and an application that sends a stream and reads the other
/// end's.
#[allow(missing_debug_implementations, reason = "smoltcp's interface has none")]
pub struct End {
    device: QueueDevice,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    to_send: Vec<u8>,
    /// Bytes that the socket has accepted.
    pub sent: usize,
    /// What the application has read.
    pub read: Vec<u8>,
    to_read: usize,
    closed: bool,
    /// Bytes that the application reads at a time, at most.
    reads: usize,
}

impl End {
    /// The host 10.0.0.`host`, with options and buffers by `random`. It sends `to_send`, and reads
    /// `to_read` bytes.
    #[must_use]
    pub fn new(host: u8, to_send: Vec<u8>, to_read: usize, random: &mut Random) -> Self {
        let mtu = 14 + [576, 1500, 1500, 3000][random.below(4)];
        let mut device = QueueDevice { mtu, ..QueueDevice::default() };
        let address = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, host]));
        let mut config = Config::new(address);
        config.random_seed = random.number();
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, host), 24)).unwrap();
        });
        // A small one makes a small window, a large one a scaled window.
        let room = [600, 2_000, 20_000, 200_000][random.below(4)];
        let buffer = |len: usize| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(buffer(room), buffer(30_000));
        socket.set_nagle_enabled(random.percent(50));
        if random.percent(50) {
            socket.set_ack_delay(None);
        }
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(socket);
        let reads = [20, 200, 100_000, 100_000][random.below(4)];
        Self {
            device,
            interface,
            sockets,
            socket,
            to_send,
            sent: 0,
            read: Vec::new(),
            to_read,
            closed: false,
            reads,
        }
    }

    /// Connects to `port` of the host 10.0.0.`host`.
    pub fn connect(&mut self, host: u8, port: u16) {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.socket);
        let to = (IpAddress::v4(10, 0, 0, host), port);
        socket.connect(self.interface.context(), to, 40_000).unwrap();
    }

    /// Frames that the stack has sent.
    pub fn take_sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.device.outgoing)
    }

    /// Delivers frames to the stack.
    pub fn receive(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.device.incoming.extend(frames);
    }

    /// The connection's socket.
    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Lets stack and application do what is due at `now`.
    pub fn poll(&mut self, now: Instant, random: &mut Random) {
        self.interface.poll(now, &mut self.device, &mut self.sockets);
        let socket = self.sockets.get_mut::<Socket<'static>>(self.socket);
        if socket.can_recv() && random.percent(50) {
            let reads = self.reads;
            let read = &mut self.read;
            let take = |bytes: &mut [u8]| {
                let len = bytes.len().min(reads);
                read.extend_from_slice(&bytes[..len]);
                (len, ())
            };
            socket.recv(take).unwrap();
        }
        if socket.can_send() && self.sent < self.to_send.len() {
            self.sent += socket.send_slice(&self.to_send[self.sent..]).unwrap();
        }
        // smoltcp 0.14 forgets what was not read when the connection has ended.
        let reads_all = self.reads > 10_000 || self.read.len() == self.to_read;
        if self.sent == self.to_send.len() && reads_all && !self.closed && socket.may_send() {
            socket.close();
            self.closed = true;
        }
        self.interface.poll(now, &mut self.device, &mut self.sockets);
    }

    /// Whether it has read the other end's stream to its end, and sent its own.
    pub fn is_done(&mut self) -> bool {
        let closed = self.closed;
        let socket = self.socket();
        closed && !socket.may_recv() && !socket.can_recv()
    }
}

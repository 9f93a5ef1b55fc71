//! How following begins.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::tcp_flags;
use podgate_tables::tuple::FlowDirection;
use smoltcp::wire::TcpControl;

use super::super::http1::Http1;
use super::super::io::FlowIo;
use super::super::reply::Template;
use super::arrived::Arrived;
use super::requests::Requests;
use super::responses::Responses;
use super::seq::Seq;
use super::{Follower, Peer, Stage, Syn};

impl Follower {
    /// A SYN of the client. It begins nothing before the server has answered it.
    pub(super) fn client_opens(&mut self, mut arrived: Arrived, io: &mut impl FlowIo) {
        if arrived.tcp.has(tcp_flags::ACK) || arrived.tcp.has(tcp_flags::URG) {
            return io.discard(arrived.packet, DropReason::Malformed);
        }
        let (client, scale) = Peer::of_syn(&arrived, io);
        let isn = arrived.start();
        self.syn = Some(Syn { isn, client, scale });
        if let Stage::Opening = self.stage {
            let head = io.umem().data(&arrived.packet.head);
            self.template = Some(Template::new(FlowDirection::Original, &arrived.view, head));
            self.requests = Requests::new(isn, isn.plus(1));
        }
        if arrived.len() > 0 {
            // Data in a SYN (RFC 7413) comes again if the SYN-ACK does not acknowledge it.
            arrived.cut(isn, 0, io);
        }
        io.forward(FlowDirection::Original, arrived.packet);
    }

    /// A SYN of the server. If it answers the client's last SYN, a connection begins, also in
    /// place of a former one: no server acknowledges a SYN of a connection that it still has.
    pub(super) fn server_opens(&mut self, mut arrived: Arrived, io: &mut impl FlowIo) {
        let isn = arrived.start();
        let answered = self.syn.filter(|syn| {
            arrived.tcp.has(tcp_flags::ACK) && Seq(arrived.tcp.ack) == syn.isn.plus(1)
        });
        let Some(syn) = answered else {
            return io.discard(arrived.packet, DropReason::Malformed);
        };
        if arrived.len() > 0 {
            arrived.cut(isn, 0, io);
        }
        let same_client = !matches!(self.stage, Stage::Opening) && self.requests.isn == syn.isn;
        let opened = self.responses.acked != self.responses.isn;
        match (same_client, self.responses.isn == isn) {
            (true, true) => match self.stage {
                Stage::Following | Stage::Refusing { .. } => {}
                _ => return self.reset_sender(FlowDirection::Reply, arrived, io),
            },
            (true, false) if opened => {
                return io.discard(arrived.packet, DropReason::Malformed);
            }
            _ => self.begin(&syn, &arrived, io),
        }
        io.forward(FlowDirection::Reply, arrived.packet);
    }

    fn begin(&mut self, syn: &Syn, syn_ack: &Arrived, io: &mut impl FlowIo) {
        self.drop_waiting(DropReason::L7Closed, io);
        let (mut server, server_scale) = Peer::of_syn(syn_ack, io);
        let mut client = syn.client;
        // Windows of SYNs are not scaled; options count if both ends have them (RFC 7323).
        self.requests = Requests::new(syn.isn, server.edge(syn_ack));
        let isn = syn_ack.start();
        let next = isn.plus(1);
        let edge = next.plus(u32::from(client.window));
        self.responses = Responses { isn, acked: isn, next, end: next, edge, fin: None };
        if let (Some(of_client), Some(of_server)) = (syn.scale, server_scale) {
            (client.scale, server.scale) = (of_client, of_server);
        }
        if client.timestamp.is_none() || server.timestamp.is_none() {
            (client.timestamp, server.timestamp) = (None, None);
        }
        client.sack &= server.sack;
        (self.client, self.server) = (Some(client), Some(server));
        self.http = Http1::default();
        self.aborted = false;
        self.stage = Stage::Following;
    }

    /// A segment without SYN before a connection began.
    pub(super) fn before_opening(
        &mut self,
        direction: FlowDirection,
        arrived: Arrived,
        io: &mut impl FlowIo,
    ) {
        let Some(syn) = self.syn else { return self.refuse_mid_stream(direction, arrived, io) };
        let is_reset = arrived.tcp.has(tcp_flags::RST);
        let answers = Seq(arrived.tcp.ack) == syn.isn.plus(1);
        if arrived.len() > 0
            || arrived.has_fin()
            || (is_reset && direction == FlowDirection::Reply && !answers)
        {
            return io.discard(arrived.packet, DropReason::Malformed);
        }
        self.aborted |= is_reset;
        io.forward(direction, arrived.packet);
    }

    /// What came before was not inspected, so the connection can't go on.
    fn refuse_mid_stream(
        &mut self,
        direction: FlowDirection,
        arrived: Arrived,
        io: &mut impl FlowIo,
    ) {
        let reason = DropReason::L7Unsupported;
        if arrived.tcp.has(tcp_flags::RST) {
            return io.discard(arrived.packet, reason);
        }
        let head = io.umem().data(&arrived.packet.head);
        self.template = Some(Template::new(direction, &arrived.view, head));
        io.event(EventKind::Drop { reason });
        self.send(direction, arrived.start(), TcpControl::Rst, Some(0), b"", io);
        let seq = Seq(arrived.tcp.ack);
        self.send(direction.reverse(), seq, TcpControl::Rst, Some(0), b"", io);
        self.stage = Stage::Closed;
        io.discard(arrived.packet, reason);
    }
}

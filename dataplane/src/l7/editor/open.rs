//! How a connection begins.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::tcp_flags;
use podgate_tables::tuple::FlowDirection;

use super::half::{Half, Halves, TcpEnd};
use super::segment::TcpSegment;
use super::seq::Seq;
use super::{DIRECTIONS, Editor, FlowIo, Inspector, Stage, Syn};
use crate::l7::reply::Template;

impl<I: Inspector> Editor<I> {
    /// A SYN of the client. It begins nothing before the server has answered it.
    pub(super) fn receive_syn(&mut self, mut segment: TcpSegment, io: &mut impl FlowIo) {
        if segment.tcp.has(tcp_flags::ACK) || segment.tcp.has(tcp_flags::URG) {
            return io.drop_packet(FlowDirection::Original, segment.packet, DropReason::Malformed);
        }
        segment.remove_unknown_options(io.umem());
        let (client, scale) = TcpEnd::of_syn(&segment, io);
        let isn = segment.start();
        self.syn = Some(Syn { isn, client, window: segment.tcp.window, scale });
        if let Stage::Opening = self.stage {
            let head = io.umem().data(&segment.packet.head);
            self.template = Some(Template::new(FlowDirection::Original, &segment.view, head));
            let first = isn.plus(1);
            self.halves.original = Half::new(isn, first, first, client);
        }
        if segment.len() > 0 {
            // Data in a SYN (RFC 7413) comes again if the SYN-ACK does not acknowledge it.
            segment.cut(isn, 0, io);
        }
        io.forward(FlowDirection::Original, segment.packet, &segment.view);
    }

    /// A SYN of the server. If it answers the client's last SYN, a connection begins, also in
    /// place of one that is over. One that is not over is reset: a server that answers by SYN
    /// cookies may still have it.
    pub(super) fn receive_syn_ack(&mut self, mut segment: TcpSegment, io: &mut impl FlowIo) {
        let isn = segment.start();
        let answered = self.syn.filter(|syn| {
            segment.tcp.has(tcp_flags::ACK) && Seq(segment.tcp.ack) == syn.isn.plus(1)
        });
        let Some(syn) = answered else {
            return io.drop_packet(FlowDirection::Reply, segment.packet, DropReason::Malformed);
        };
        segment.remove_unknown_options(io.umem());
        if segment.len() > 0 {
            segment.cut(isn, 0, io);
        }
        let Halves { original, reply } = &self.halves;
        let same_client = !matches!(self.stage, Stage::Opening) && original.isn == syn.isn;
        let opened = reply.acked != reply.isn;
        match (same_client, reply.isn == isn) {
            (true, true) => match self.stage {
                Stage::Open => {}
                _ => return self.reset_sender(FlowDirection::Reply, segment, io),
            },
            (true, false) if opened => {
                return io.drop_packet(FlowDirection::Reply, segment.packet, DropReason::Malformed);
            }
            (false, _) if opened && self.is_live() && !self.is_finished() => {
                io.drop_packet(FlowDirection::Reply, segment.packet, DropReason::L7Closed);
                return self.reset(io);
            }
            _ => self.begin(&syn, &segment, io),
        }
        io.forward(FlowDirection::Reply, segment.packet, &segment.view);
    }

    fn begin(&mut self, syn: &Syn, syn_ack: &TcpSegment, io: &mut impl FlowIo) {
        // No other event tells of them.
        for direction in DIRECTIONS {
            while let Some(segment) = self.halves[direction].queue.pop(io) {
                io.drop_packet(direction, segment.packet, DropReason::L7Closed);
            }
        }
        let (mut server, server_scale) = TcpEnd::of_syn(syn_ack, io);
        let mut client = syn.client;
        // Windows of SYNs are not scaled; options count if both ends have them (RFC 7323).
        if let (Some(of_client), Some(of_server)) = (syn.scale, server_scale) {
            (client.scale, server.scale) = (of_client, of_server);
        }
        if client.timestamp.is_none() || server.timestamp.is_none() {
            (client.timestamp, server.timestamp) = (None, None);
        }
        client.sack &= server.sack;
        server.sack = client.sack;
        let (client_first, isn) = (syn.isn.plus(1), syn_ack.start());
        let server_edge = client_first.plus(u32::from(syn_ack.tcp.window));
        let client_edge = isn.plus(1).plus(u32::from(syn.window));
        self.halves = Halves {
            original: Half::new(syn.isn, client_first, server_edge, client),
            reply: Half::new(isn, isn, client_edge, server),
        };
        // The client's acknowledgement of the SYN-ACK has to reach the server, also with bytes that
        // are dropped.
        self.halves.reply.acked_to_sender = isn;
        self.inspector.restart();
        self.aborted = false;
        self.stage = Stage::Open;
    }

    /// A segment without SYN before a connection began.
    pub(super) fn receive_before_open(
        &mut self,
        direction: FlowDirection,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        let Some(syn) = self.syn else { return self.reset_mid_stream(direction, segment, io) };
        let is_reset = segment.tcp.has(tcp_flags::RST);
        let answers = Seq(segment.tcp.ack) == syn.isn.plus(1);
        if segment.len() > 0
            || segment.has_fin()
            || (is_reset && direction == FlowDirection::Reply && !answers)
        {
            return io.drop_packet(direction, segment.packet, DropReason::Malformed);
        }
        self.aborted |= is_reset;
        io.forward(direction, segment.packet, &segment.view);
    }

    /// What came before was not inspected, so the connection can't continue.
    fn reset_mid_stream(
        &mut self,
        direction: FlowDirection,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        let reason = DropReason::L7Unsupported;
        if segment.tcp.has(tcp_flags::RST) {
            return io.drop_packet(direction, segment.packet, reason);
        }
        let head = io.umem().data(&segment.packet.head);
        self.template = Some(Template::new(direction, &segment.view, head));
        self.send_reset(direction, segment.start(), io);
        self.send_reset(direction.reverse(), Seq(segment.tcp.ack), io);
        self.stage = Stage::Closed;
        io.drop_packet(direction, segment.packet, reason);
    }
}

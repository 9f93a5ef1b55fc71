//! TCP flag bits (RFC 9293 §3.1).

/// No more data from sender.
pub const FIN: u8 = 0x01;
/// Synchronize sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// Acknowledgement field is valid.
pub const ACK: u8 = 0x10;
/// Urgent pointer is valid.
pub const URG: u8 = 0x20;

//! Messages of the services as protocol buffers.
//!
//! An empty filter has two bytes in a request and a kilobyte in memory, so filters are counted
//! before a request is decoded.

use std::any::TypeId;
use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::filter::Filters;
use crate::proto::observer::GetFlowsRequest;

/// Numbers of the fields `blacklist` and `whitelist` of a request for flows.
const FILTER_FIELDS: [u32; 2] = [5, 6];

/// Encodes `T`, and decodes `U`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = CountingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CountingDecoder(ProstDecoder::default())
    }
}

/// Decodes a message, if it has not too many filters.
pub(crate) struct CountingDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default + 'static> Decoder for CountingDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if TypeId::of::<U>() == TypeId::of::<GetFlowsRequest>() {
            Filters::check_count(count_filters(message.chunk()))
                .map_err(Status::invalid_argument)?;
        }
        self.0.decode(message)
    }
}

/// The number of filters in an encoded request, up to where it is malformed.
fn count_filters(mut encoded: &[u8]) -> usize {
    let mut count = 0;
    while let Ok((number, wire_type)) = decode_key(&mut encoded) {
        count += usize::from(FILTER_FIELDS.contains(&number));
        if skip_field(wire_type, number, &mut encoded, DecodeContext::default()).is_err() {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::flow::FlowFilter;

    #[test]
    fn filters_of_an_encoded_request_are_counted() {
        let filters = |count| vec![FlowFilter::default(); count];
        let request = GetFlowsRequest {
            number: 7,
            whitelist: filters(300),
            blacklist: filters(20),
            follow: true,
            ..GetFlowsRequest::default()
        };
        let encoded = request.encode_to_vec();
        assert_eq!(count_filters(&encoded), 320);
        assert_eq!(count_filters(&encoded[..encoded.len() - 1]), 320);
        assert_eq!(count_filters(&[]), 0);
        assert_eq!(count_filters(b"\xff"), 0);
    }
}

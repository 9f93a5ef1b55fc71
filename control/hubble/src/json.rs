//! Messages as JSON, in protocol buffers' own mapping (protobuf.dev, "ProtoJSON Format"), with
//! fields named as in the proto files, as `hubble observe -o jsonpb` prints them.

mod writer;

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};

use self::writer::Writer;
use crate::proto::flow::FlowFilter;
use crate::proto::observer::GetFlowsResponse;

/// The messages of `proto/`, without their comments.
static MESSAGES: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // `tests/generated.rs` compares the file; what is missing in it is an error below.
    DescriptorPool::decode(&include_bytes!("generated/descriptors.bin")[..]).unwrap_or_default()
});

/// Writes them.
static WRITER: LazyLock<Writer> = LazyLock::new(|| Writer::new(&MESSAGES));

/// What a reader does with a field that no message has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum UnknownFields {
    /// It may be of a later version.
    Skip,
    /// It is a mistake.
    Reject,
}

/// One line of JSON.
///
/// # Errors
/// When a value has no JSON form: a time that is out of range.
pub fn response_to_json(response: &GetFlowsResponse) -> Result<String, String> {
    to_json("observer.GetFlowsResponse", response)
}

/// Reads what [`response_to_json`] writes.
///
/// # Errors
/// When it is no JSON, or a field has a value of another type.
pub fn response_from_json(json: &str) -> Result<GetFlowsResponse, String> {
    from_json("observer.GetFlowsResponse", json, UnknownFields::Skip)
}

/// A filter as JSON, as `hubble observe --print-raw-filters` writes it.
///
/// # Errors
/// Never for filters made here.
pub fn filter_to_json(filter: &FlowFilter) -> Result<String, String> {
    to_json("flow.FlowFilter", filter)
}

/// Reads a filter.
///
/// # Errors
/// When it is no JSON, or has a field that filters don't have.
pub fn filter_from_json(json: &str) -> Result<FlowFilter, String> {
    from_json("flow.FlowFilter", json, UnknownFields::Reject)
}

fn to_json(name: &str, message: &impl Message) -> Result<String, String> {
    let encoded = message.encode_to_vec();
    WRITER.write(name, &encoded).map_or_else(|| by_reflection(name, &encoded), Ok)
}

/// Writes a message of any types.
fn by_reflection(name: &str, encoded: &[u8]) -> Result<String, String> {
    let descriptor = MESSAGES.get_message_by_name(name).ok_or("no such message")?;
    let dynamic = DynamicMessage::decode(descriptor, encoded);
    let dynamic = dynamic.map_err(|error| error.to_string())?;
    let mut json = Vec::new();
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut writer = serde_json::Serializer::new(&mut json);
    let written = dynamic.serialize_with_options(&mut writer, &options);
    written.map_err(|error| error.to_string())?;
    String::from_utf8(json).map_err(|error| error.to_string())
}

fn from_json<T: Message + Default>(
    name: &str,
    json: &str,
    unknown: UnknownFields,
) -> Result<T, String> {
    let descriptor = MESSAGES.get_message_by_name(name).ok_or("no such message")?;
    let mut reader = serde_json::Deserializer::from_str(json);
    let options = DeserializeOptions::new().deny_unknown_fields(unknown == UnknownFields::Reject);
    let read = DynamicMessage::deserialize_with_options(descriptor, &mut reader, &options);
    let dynamic = read.map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    T::decode(&*dynamic.encode_to_vec()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::tests::sample;
    use crate::proto::flow::layer7::Record;
    use crate::proto::flow::{
        CiliumEventType, Dns, Http, HttpHeader, IpVersion, Layer7, LostEvent, NetworkInterface,
        Policy, Verdict,
    };
    use crate::proto::observer::get_flows_response::ResponseTypes;

    fn response() -> GetFlowsResponse {
        let flow = sample();
        let (node_name, time) = (flow.node_name.clone(), flow.time);
        GetFlowsResponse { response_types: Some(ResponseTypes::Flow(flow.into())), node_name, time }
    }

    #[test]
    fn a_response_is_the_json_that_hubble_writes() {
        let flow = "{\"time\":\"1970-01-01T00:20:34.567800Z\",\"verdict\":\"DROPPED\",\
            \"IP\":{\"source\":\"1.1.1.1\",\"destination\":\"2.2.2.2\"},\
            \"l4\":{\"TCP\":{\"source_port\":31793,\"destination_port\":8080}},\
            \"source\":{\"identity\":4},\"destination\":{\"identity\":12345},\
            \"Type\":\"L3_L4\",\"node_name\":\"k8s1\",\
            \"event_type\":{\"type\":1,\"sub_type\":133},\
            \"is_reply\":false,\"Summary\":\"TCP Flags: SYN\"}";
        let expected = format!(
            "{{\"flow\":{flow},\"node_name\":\"k8s1\",\"time\":\"1970-01-01T00:20:34.567800Z\"}}"
        );
        assert_eq!(response_to_json(&response()).unwrap(), expected);
        assert_eq!(response_from_json(&expected).unwrap(), response());
    }

    /// One of every type of field, and the numbers that are encoded in another way.
    fn full() -> [GetFlowsResponse; 2] {
        let http = Http {
            code: u32::MAX,
            method: "P\u{202e}\"\\\n\u{1}".into(),
            headers: vec![HttpHeader { key: "a".into(), value: String::new() }; 2],
            ..Http::default()
        };
        let dns = Dns { rcode: 3, ips: vec!["é".into(); 3], ..Dns::default() };
        let mut response = response();
        let Some(ResponseTypes::Flow(flow)) = &mut response.response_types else { unreachable!() };
        flow.event_type = Some(CiliumEventType { r#type: -1, sub_type: i32::MIN });
        flow.source_names = vec!["a.example".into(), String::new()];
        flow.drop_reason_desc = 70_000;
        flow.interface = Some(NetworkInterface::default());
        flow.egress_denied_by = vec![
            Policy { revision: u64::MAX, labels: vec!["k8s:a".into()], ..Policy::default() },
            Policy::default(),
        ];
        flow.l7 =
            Some(Layer7 { latency_ns: 1, record: Some(Record::Http(http)), ..Layer7::default() });
        flow.l4 = None;
        flow.is_reply = Some(true);
        let mut other = response.clone();
        let Some(ResponseTypes::Flow(flow)) = &mut other.response_types else { unreachable!() };
        flow.l7 = Some(Layer7 { record: Some(Record::Dns(dns)), ..Layer7::default() });
        [response, other]
    }

    #[test]
    fn what_is_written_is_what_reflection_gives() {
        let lost = |cpu| {
            let lost = LostEvent { num_events_lost: u64::MAX, cpu, ..LostEvent::default() };
            GetFlowsResponse {
                response_types: Some(ResponseTypes::LostEvents(lost)),
                ..GetFlowsResponse::default()
            }
        };
        let name = "observer.GetFlowsResponse";
        let [http, dns] = full();
        let lost = [None, Some(0), Some(-7)].map(lost);
        for response in [GetFlowsResponse::default(), response(), http, dns].iter().chain(&lost) {
            let encoded = response.encode_to_vec();
            let written = WRITER.write(name, &encoded).unwrap();
            assert_eq!(written, by_reflection(name, &encoded).unwrap());
        }
        let filter = FlowFilter {
            ip_version: vec![IpVersion::IPv4.into(), 99],
            verdict: vec![Verdict::Dropped.into(); 2],
            source_port: vec!["80".into()],
            reply: vec![true, false],
            ..FlowFilter::default()
        };
        let encoded = filter.encode_to_vec();
        let written = WRITER.write("flow.FlowFilter", &encoded).unwrap();
        assert_eq!(written, by_reflection("flow.FlowFilter", &encoded).unwrap());
    }

    #[test]
    fn a_time_that_is_out_of_range_has_no_json() {
        let time = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
        assert!(response_to_json(&GetFlowsResponse { time, ..response() }).is_err());
    }

    #[test]
    fn names_of_later_versions_are_skipped_in_flows_and_rejected_in_filters() {
        let json = r#"{"flow":{"verdict":"AUDIT","nodeName":"a","foo":42},"bar":{}}"#;
        let Some(ResponseTypes::Flow(flow)) = response_from_json(json).unwrap().response_types
        else {
            panic!("no flow");
        };
        assert_eq!((flow.verdict(), flow.node_name.as_str()), (Verdict::Audit, "a"));
        for bad in ["", "{", "[]", "{\"flow\":1}", "{} {}", "{\"flow\":{\"time\":\"x\"}}"] {
            assert!(response_from_json(bad).is_err(), "{bad}");
        }
        let filter = r#"{"source_pod":["shop/"],"event_type":[{"type":129}]}"#;
        assert_eq!(filter_to_json(&filter_from_json(filter).unwrap()).unwrap(), filter);
        let error = filter_from_json(r#"{"source_pods":["shop/"]}"#).unwrap_err();
        assert!(error.contains("source_pods"), "{error}");
    }
}

//! Field masks (`google.protobuf.FieldMask`): a client names the fields of a flow that it reads,
//! and the others are not sent.
//!
//! A mask is applied to the encoded flow: fields that it doesn't name are skipped.

use std::collections::BTreeMap;

use prost::bytes::Buf;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_varint, skip_field,
};
use prost::{DecodeError, Message};

use crate::proto::fields::FLOW;
use crate::proto::flow::Flow;

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its name in the proto file.
    pub(crate) name: &'static str,
    /// Its number.
    pub(crate) number: u32,
    /// The fields of the message that it is.
    pub(crate) inner: Option<&'static [Field]>,
}

/// The fields of a flow that a client reads.
#[derive(Debug)]
pub(crate) struct FieldMask(Fields);

/// Fields by number.
type Fields = BTreeMap<u32, Selected>;

#[derive(Debug)]
enum Selected {
    /// The whole field.
    All,
    /// These fields of the message that it is.
    Inner(Fields),
}

impl FieldMask {
    /// The mask of these paths. Without paths there is none.
    ///
    /// # Errors
    /// For a path that names no field.
    pub(crate) fn new(paths: &[String]) -> Result<Option<Self>, String> {
        let mut fields = Fields::new();
        for path in paths {
            select(&mut fields, FLOW, path)
                .ok_or_else(|| format!("field_mask: a flow has no field {path:?}"))?;
        }
        Ok((!fields.is_empty()).then_some(Self(fields)))
    }

    /// The flow with the fields of the mask only.
    pub(crate) fn apply(&self, flow: &Flow) -> Flow {
        let encoded = flow.encode_to_vec();
        let mut kept = Vec::with_capacity(encoded.len());
        // What was encoded here can be decoded.
        let copied = copy(&self.0, &encoded, &mut kept);
        copied.and_then(|()| Flow::decode(&*kept)).unwrap_or_default()
    }
}

/// Adds a path. `None` if it names no field.
fn select(selected: &mut Fields, fields: &[Field], path: &str) -> Option<()> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let field = fields.iter().find(|field| field.name == name)?;
    match rest {
        None => _ = selected.insert(field.number, Selected::All),
        Some(rest) => {
            let none = || Selected::Inner(Fields::new());
            let inner = field.inner?;
            match selected.entry(field.number).or_insert_with(none) {
                Selected::Inner(chosen) => select(chosen, inner, rest)?,
                // Another path has the whole field.
                Selected::All => select(&mut Fields::new(), inner, rest)?,
            }
        }
    }
    Some(())
}

/// Appends the selected fields of `message` to `kept`.
fn copy(selected: &Fields, mut message: &[u8], kept: &mut Vec<u8>) -> Result<(), DecodeError> {
    while message.has_remaining() {
        let field = message;
        let (number, wire_type) = decode_key(&mut message)?;
        let key = &field[..field.len() - message.len()];
        match selected.get(&number) {
            Some(Selected::Inner(inner)) if wire_type == WireType::LengthDelimited => {
                let length = decode_varint(&mut message)? as usize;
                let Some((content, rest)) = message.split_at_checked(length) else {
                    return Flow::decode(field).map(drop);
                };
                message = rest;
                let mut part = Vec::new();
                copy(inner, content, &mut part)?;
                kept.extend_from_slice(key);
                encode_varint(part.len() as u64, kept);
                kept.append(&mut part);
            }
            chosen => {
                skip_field(wire_type, number, &mut message, DecodeContext::default())?;
                if chosen.is_some() {
                    kept.extend_from_slice(&field[..field.len() - message.len()]);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::flow::{Endpoint, Verdict};

    fn flow() -> Flow {
        let endpoint = |identity, pod: &str| Endpoint {
            identity,
            pod_name: pod.into(),
            namespace: "shop".into(),
            labels: vec!["k8s:app=a".into(), "k8s:b=c".into()],
            ..Endpoint::default()
        };
        Flow {
            uuid: "1".into(),
            verdict: Verdict::Dropped.into(),
            source: Some(endpoint(1, "cart")),
            destination: Some(endpoint(2, "db")),
            is_reply: Some(false),
            ..Flow::default()
        }
    }

    fn masked(paths: &[&str]) -> Result<Flow, String> {
        let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
        Ok(FieldMask::new(&paths)?.map_or_else(flow, |mask| mask.apply(&flow())))
    }

    #[test]
    fn a_mask_leaves_the_fields_that_it_names() {
        let labels = |flow: &Flow| flow.source.clone().unwrap().labels.len();
        let seen = masked(&["verdict", "source.pod_name", "source.labels", "is_reply"]).unwrap();
        assert_eq!((seen.verdict, seen.is_reply, labels(&seen)), (2, Some(false), 2));
        assert_eq!(seen.source.clone().unwrap().pod_name, "cart");
        assert_eq!(seen.source.unwrap().identity, 0);
        assert_eq!((seen.destination, seen.uuid.as_str()), (None, ""));
        let whole = masked(&["source", "source.pod_name"]).unwrap();
        assert_eq!(whole.source, flow().source);
        let whole = masked(&["source.pod_name", "source"]).unwrap();
        assert_eq!(whole.source, flow().source);
        assert_eq!(masked(&[]).unwrap(), flow());
    }

    #[test]
    fn a_path_to_no_field_is_rejected_by_name() {
        for path in ["", "nothing", "source.nothing", "uuid.x", "source.pod_name.", "source."] {
            let error = masked(&["uuid", path]).unwrap_err();
            assert!(error.contains(&format!("{path:?}")), "{error}");
        }
        // The paths that the `hubble` program sends.
        let usual = "time verdict ethernet IP l4 source.identity source.namespace source.pod_name \
            destination.identity destination.namespace destination.pod_name Type node_name l7 \
            event_type source_service destination_service is_reply Summary ip_trace_id";
        masked(&usual.split_whitespace().collect::<Vec<_>>()).unwrap();
    }
}

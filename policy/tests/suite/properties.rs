//! What holds for all objects and all flows.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use podgate_policy::{Compiled, EnforcementMode, Kind, ObjectKey, Store, compile};

use crate::by_names::by_names;
use crate::generate::{HOSTS, cluster, flow, learned, policies, request};
use crate::support::{ask_oracle, ask_tables};

fn store() -> Store {
    let mut store = Store::new();
    store.set_host_addresses(HOSTS.map(|host| host.parse().unwrap()));
    store
}

/// Applies objects that are all valid.
fn apply(store: &mut Store, objects: &[Value]) -> Vec<ObjectKey> {
    let apply = |object| store.apply(object, None).unwrap_or_else(|r| panic!("{object}: {r:?}"));
    objects.iter().map(apply).collect()
}

fn assert_same(left: &Compiled, right: &Compiled) -> Result<(), TestCaseError> {
    prop_assert_eq!(by_names(left), by_names(right));
    Ok(())
}

fn mode() -> impl Strategy<Value = EnforcementMode> {
    prop_oneof![
        8 => Just(EnforcementMode::Default),
        1 => Just(EnforcementMode::Always),
        1 => Just(EnforcementMode::Never),
    ]
}

/// A kind that can't be read.
fn unread() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::CiliumCidrGroup), Just(Kind::Service), Just(Kind::EndpointSlice)]
}

proptest! {
    #[test]
    fn tables_say_what_the_oracle_says(
        cluster in cluster(),
        policies in policies(5),
        flows in vec((flow(), request()), 40),
        learned in learned(),
        mode in mode(),
        unread in proptest::option::weighted(0.2, unread()),
    ) {
        let mut store = store();
        store.set_mode(mode);
        if let Some(kind) = unread {
            store.set_unread(kind, Some("forbidden"));
        }
        for (name, addresses) in learned {
            store.learn(name, addresses);
        }
        apply(&mut store, &cluster);
        apply(&mut store, &policies);
        let compiled = compile(&store);
        for ((subject, local), request) in &flows {
            let (said, may_be) = ask_oracle(&store, subject, *local, Some(request));
            let (answer, causes) = ask_tables(&compiled, subject, *local, Some(request));
            prop_assert_eq!(&answer, &said, "{:?} {:?} {:?}", subject, local, causes);
            for (cause, may_be) in causes.iter().zip(&may_be) {
                prop_assert!(may_be.contains(cause), "{}: not of {:?}", cause, may_be);
            }
        }
    }

    #[test]
    fn tables_do_not_depend_on_the_order_of_updates(
        cluster in cluster(),
        policies in policies(5),
        former in policies(5),
        order in any::<prop::sample::Index>(),
        reverse in any::<bool>(),
    ) {
        let mut objects = cluster;
        objects.extend(policies);
        let mut straight = store();
        apply(&mut straight, &objects);

        // Former versions first, some of which have other names and must go again.
        let mut winding = store();
        let former = apply(&mut winding, &former);
        let middle = order.index(objects.len());
        objects.rotate_left(middle);
        if reverse {
            objects.reverse();
        }
        let keys = apply(&mut winding, &objects);
        for key in former.iter().filter(|key| !keys.contains(key)) {
            winding.delete(key);
        }
        assert_same(&compile(&straight), &compile(&winding))?;
    }

    #[test]
    fn removing_what_was_added_gives_back_the_tables(
        cluster in cluster(),
        policies in policies(4),
        more in policies(4),
    ) {
        let mut store = store();
        apply(&mut store, &cluster);
        let keys = apply(&mut store, &policies);
        let before = compile(&store);
        let mut more = more;
        for (index, policy) in more.iter_mut().enumerate() {
            policy["metadata"]["name"] = format!("more{index}").into();
        }
        for key in apply(&mut store, &more) {
            prop_assert!(!keys.contains(&key));
            store.delete(&key);
        }
        assert_same(&before, &compile(&store))?;
    }

    #[test]
    fn renaming_policies_changes_no_verdict(
        cluster in cluster(),
        policies in policies(5),
        flows in vec((flow(), request()), 20),
    ) {
        let mut policies = policies;
        // Names do count among ClusterNetworkPolicies of one priority.
        for (index, policy) in policies.iter_mut().enumerate() {
            if policy["kind"] == "ClusterNetworkPolicy" {
                policy["spec"]["priority"] = index.into();
            }
        }
        let mut one = store();
        apply(&mut one, &cluster);
        apply(&mut one, &policies);
        let mut other = store();
        apply(&mut other, &cluster);
        let mut renamed = policies;
        let count = renamed.len();
        for (index, policy) in renamed.iter_mut().enumerate() {
            policy["metadata"]["name"] = format!("policy{}", count - index).into();
        }
        apply(&mut other, &renamed);
        let (one, other) = (compile(&one), compile(&other));
        for ((subject, local), request) in &flows {
            let (left, _) = ask_tables(&one, subject, *local, Some(request));
            let (right, _) = ask_tables(&other, subject, *local, Some(request));
            prop_assert_eq!(left, right);
        }
    }
}

//! Following changes one by one against compiling from nothing.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use podgate_policy::{Compiler, EnforcementMode, ObjectKey, Store, compile};

use crate::by_names::by_names;
use crate::generate::{HOSTS, cluster, policies};

/// One change of the store.
#[derive(Clone, Debug)]
enum Step {
    /// Adds or replaces an object.
    Apply(Value),
    /// Deletes one of the objects that are there.
    Delete(Index),
    Host(bool),
    Learn(u8, u8),
    Mode(EnforcementMode),
}

fn step() -> impl Strategy<Value = Step> {
    let object = prop_oneof![
        3 => (cluster(), any::<Index>()).prop_map(|(list, index)| list[index.index(list.len())].clone()),
        2 => policies(1).prop_filter_map("no policy", |mut list| list.pop()),
    ];
    // Few names, so that policies replace each other.
    let object = (object, 0..4u8).prop_map(|(mut object, name)| {
        if object["kind"].as_str().is_some_and(|kind| kind.ends_with("NetworkPolicy")) {
            object["metadata"]["name"] = format!("policy{name}").into();
        }
        object
    });
    prop_oneof![
        12 => object.prop_map(Step::Apply),
        5 => any::<Index>().prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::Host),
        1 => (0..3u8, 0..4u8).prop_map(|(name, address)| Step::Learn(name, address)),
        1 => prop::sample::select(&[
            EnforcementMode::Default,
            EnforcementMode::Always,
            EnforcementMode::Never,
        ][..])
        .prop_map(Step::Mode),
    ]
}

fn take(step: &Step, store: &mut Store, keys: &mut Vec<ObjectKey>) {
    match step {
        Step::Apply(object) => {
            if let Ok(key) = store.apply(object, None)
                && !keys.contains(&key)
            {
                keys.push(key);
            }
        }
        Step::Delete(index) if !keys.is_empty() => {
            store.delete(&keys.swap_remove(index.index(keys.len())));
        }
        Step::Delete(_) => {}
        Step::Host(moved) => {
            let hosts = if *moved { &HOSTS[1..] } else { &HOSTS[..] };
            store.set_host_addresses(hosts.iter().map(|host| host.parse().unwrap()));
        }
        Step::Learn(name, address) => {
            let addresses = (0..*address).map(|last| [203, 0, 113, last].into());
            store.learn(&format!("name{name}.example"), addresses);
        }
        Step::Mode(mode) => store.set_mode(*mode),
    }
}

proptest! {
    #[test]
    fn following_changes_in_any_batches_gives_the_tables_of_the_objects(
        steps in vec((step(), any::<bool>()), 1..60),
    ) {
        let (mut store, mut compiler, mut keys) = (Store::new(), Compiler::new(), Vec::new());
        let mut last = by_names(&compiler.compiled());
        for (step, ends_batch) in &steps {
            take(step, &mut store, &mut keys);
            if *ends_batch {
                let changed = compiler.update(&mut store);
                let now = by_names(&compiler.compiled());
                prop_assert!(changed || now == last, "a change was not told");
                prop_assert_eq!(&now, &by_names(&compile(&store)));
                last = now;
            }
        }
        compiler.update(&mut store);
        prop_assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&store)));

        for key in keys {
            store.delete(&key);
        }
        for name in 0..3 {
            store.learn(&format!("name{name}.example"), []);
        }
        compiler.update(&mut store);
        let mut empty = Store::new();
        empty.set_mode(store.mode());
        empty.set_host_addresses([]);
        store.set_host_addresses([]);
        compiler.update(&mut store);
        prop_assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&empty)));
        prop_assert!(!compiler.update(&mut store), "nothing is left to do");
    }

    #[test]
    fn what_was_published_does_not_change(steps in vec(step(), 1..30), more in vec(step(), 1..30)) {
        let (mut store, mut compiler, mut keys) = (Store::new(), Compiler::new(), Vec::new());
        for step in &steps {
            take(step, &mut store, &mut keys);
        }
        compiler.update(&mut store);
        let published = compiler.compiled();
        let before = by_names(&published);
        for step in &more {
            take(step, &mut store, &mut keys);
            compiler.update(&mut store);
        }
        prop_assert_eq!(by_names(&published), before);
    }
}

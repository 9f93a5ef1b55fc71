//! Following changes one by one against compiling from nothing.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

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

/// Makes more changes than the log keeps, and undoes them.
fn overflow_the_log(store: &mut Store) {
    for addresses in [vec![[203, 0, 113, 9].into()], Vec::new()] {
        for name in 0..5_000 {
            store.learn(&format!("flood{name}.example"), addresses.clone());
        }
    }
    for number in 0..5_000 {
        let metadata = json!({"name": format!("flood{number}")});
        let flood = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        let key = store.apply(&flood, None).unwrap();
        store.delete(&key);
    }
}

#[test]
fn a_compiler_that_fell_behind_the_log_compiles_everything_again() {
    let pod = |name: &str, address: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
               "status": {"podIPs": [{"ip": address}]}})
    };
    let (mut store, mut behind, mut current) = (Store::new(), Compiler::new(), Compiler::new());
    let key = store.apply(&pod("a", "10.0.0.1"), None).unwrap();
    behind.update(&store);
    store.delete(&key);
    current.update(&store);
    overflow_the_log(&mut store);
    store.apply(&pod("b", "10.0.0.2"), None).unwrap();
    for mut compiler in [behind, current] {
        assert!(compiler.update(&store));
        assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&store)));
        assert!(!compiler.update(&store));
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
                let changed = compiler.update(&store);
                let now = by_names(&compiler.compiled());
                prop_assert!(changed || now == last, "a change was not reported");
                prop_assert_eq!(&now, &by_names(&compile(&store)));
                last = now;
            }
        }
        compiler.update(&store);
        prop_assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&store)));

        for key in keys {
            store.delete(&key);
        }
        for name in 0..3 {
            store.learn(&format!("name{name}.example"), []);
        }
        compiler.update(&store);
        let mut empty = Store::new();
        empty.set_mode(store.mode());
        empty.set_host_addresses([]);
        store.set_host_addresses([]);
        compiler.update(&store);
        prop_assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&empty)));
        prop_assert!(!compiler.update(&store), "nothing is left to do");
    }

    #[test]
    fn following_names_alone_gives_the_tables_of_the_earlier_objects_with_the_new_names(
        before in vec(step(), 1..40),
        after in vec(step(), 1..20),
        names in vec((0..3u8, 0..4u8), 1..6),
        overflow in 0..20u8,
    ) {
        let (mut store, mut compiler, mut keys) = (Store::new(), Compiler::new(), Vec::new());
        let (mut earlier, mut earlier_keys) = (Store::new(), Vec::new());
        for step in &before {
            take(step, &mut store, &mut keys);
            take(step, &mut earlier, &mut earlier_keys);
        }
        compiler.update(&store);
        let learn = after.iter().filter(|step| matches!(step, Step::Learn(..)));
        learn.for_each(|step| take(step, &mut earlier, &mut earlier_keys));
        after.iter().for_each(|step| take(step, &mut store, &mut keys));
        if overflow == 0 {
            overflow_the_log(&mut store);
        }
        for (name, address) in names {
            for store in [&mut store, &mut earlier] {
                take(&Step::Learn(name, address), store, &mut Vec::new());
            }
        }
        let former = by_names(&compiler.compiled());
        let changed = compiler.update_names(&store);
        let now = by_names(&compiler.compiled());
        prop_assert!(changed || now == former, "a change was not reported");
        prop_assert_eq!(now, by_names(&compile(&earlier)));
        prop_assert!(!compiler.update_names(&store));
        compiler.update(&store);
        prop_assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&store)));
    }

    #[test]
    fn compilers_that_follow_one_store_at_different_paces_agree(
        steps in vec((step(), 0..40u8, 0..4u8), 1..40),
    ) {
        let (mut store, mut keys) = (Store::new(), Vec::new());
        let mut compilers = [Compiler::new(), Compiler::new()];
        for (step, flood, updates) in &steps {
            take(step, &mut store, &mut keys);
            if *flood == 0 {
                overflow_the_log(&mut store);
            }
            for (bit, compiler) in compilers.iter_mut().enumerate() {
                if updates & (1 << bit) != 0 {
                    compiler.update(&store);
                    prop_assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&store)));
                }
            }
        }
        for compiler in &mut compilers {
            compiler.update(&store);
            prop_assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&store)));
            prop_assert!(!compiler.update(&store), "a second update changes nothing");
        }
    }

    #[test]
    fn what_was_published_does_not_change(steps in vec(step(), 1..30), more in vec(step(), 1..30)) {
        let (mut store, mut compiler, mut keys) = (Store::new(), Compiler::new(), Vec::new());
        for step in &steps {
            take(step, &mut store, &mut keys);
        }
        compiler.update(&store);
        let published = compiler.compiled();
        let before = by_names(&published);
        for step in &more {
            take(step, &mut store, &mut keys);
            compiler.update(&store);
        }
        prop_assert_eq!(by_names(&published), before);
    }
}

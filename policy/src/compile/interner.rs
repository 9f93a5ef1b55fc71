//! Numbers for distinct values.

use std::hash::Hash;

use hashbrown::{Equivalent, HashMap};

/// Numbers that are given out again once they are free.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    free: Vec<u32>,
    next: u32,
}

impl Numbers {
    pub(super) fn allocate(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(super) fn release(&mut self, number: u32) {
        self.free.push(number);
    }
}

/// Gives each distinct value a number, for as long as the value is in use.
#[derive(Debug)]
pub(super) struct Interner<K> {
    ids: HashMap<K, u32>,
    /// Values with the number of their users.
    values: Vec<Option<(K, u32)>>,
    numbers: Numbers,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Self { ids: HashMap::new(), values: Vec::new(), numbers: Numbers::default() }
    }
}

impl<K: Clone + Eq + Hash> Interner<K> {
    /// The number of a value, for one more user of it, and whether that is its first.
    pub(super) fn acquire(&mut self, value: &K) -> (u32, bool) {
        if let Some(id) = self.ids.get(value) {
            if let Some((_, users)) = &mut self.values[*id as usize] {
                *users += 1;
            }
            return (*id, false);
        }
        let (id, value) = (self.numbers.allocate(), value.clone());
        if self.values.len() <= id as usize {
            self.values.resize_with(id as usize + 1, || None);
        }
        self.ids.insert(value.clone(), id);
        self.values[id as usize] = Some((value, 1));
        (id, true)
    }

    /// One user less. Returns the value if that was the last.
    pub(super) fn release(&mut self, id: u32) -> Option<K> {
        let slot = self.values.get_mut(id as usize)?;
        let (_, users) = slot.as_mut()?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        let (value, _) = slot.take()?;
        self.ids.remove(&value);
        self.numbers.release(id);
        Some(value)
    }

    /// The number of a value that has one.
    pub(super) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, value: &Q) -> Option<u32> {
        self.ids.get(value).copied()
    }
}

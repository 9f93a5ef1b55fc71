//! Fetch sessions (KIP-227).

/// Sessions of a connection that are known at once. A client has one on each connection.
const KNOWN_MAX: usize = 4;

/// Sessions that were opened on this connection, and whose topics are all allowed by the rules of
/// now.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Their ids, the oldest last; 0 is none.
    ids: [i32; KNOWN_MAX],
}

impl Sessions {
    pub(super) fn is_known(&self, id: i32) -> bool {
        id != 0 && self.ids.contains(&id)
    }

    /// Adds a session, in place of the oldest one.
    pub(super) fn add(&mut self, id: i32) {
        if id == 0 {
            return;
        }
        self.remove(id);
        self.ids.rotate_right(1);
        self.ids[0] = id;
    }

    pub(super) fn remove(&mut self, id: i32) {
        if let Some(at) = self.ids.iter().position(|known| *known == id) {
            self.ids[at..].rotate_left(1);
            self.ids[KNOWN_MAX - 1] = 0;
        }
    }

    pub(super) fn clear(&mut self) {
        self.ids = [0; KNOWN_MAX];
    }
}

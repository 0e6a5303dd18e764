use std::{cmp::Ordering, collections::BTreeSet, io};

use bstr::ByteSlice;
use gix::hash::{ObjectId, Prefix};

use super::{Odb, OdbError, loose::is_absent};

/// Digits that an abbreviated id has at least.
const LEAST_DIGITS: usize = 4;

impl Odb {
    /// Objects whose ids begin with these hexadecimal digits, up to `most` of them, sorted. None when there are less than four digits, or other characters.
    ///
    /// # Errors
    /// When a directory of objects cannot be read. Damaged packs are passed over.
    pub fn ids_with_prefix(&self, digits: &str, most: usize) -> Result<Vec<ObjectId>, OdbError> {
        let digits = digits.to_ascii_lowercase();
        let mut found = BTreeSet::new();
        let prefix = match Prefix::from_hex(&digits) {
            Ok(prefix) if (LEAST_DIGITS..=self.hash_kind().len_in_hex()).contains(&digits.len()) => prefix,
            _ => return Ok(Vec::new()),
        };
        for pack in self.packs() {
            let index = match pack.index() {
                Ok(index) => index,
                Err(OdbError::PackVanished { .. } | OdbError::PackDamaged { .. }) => continue,
                Err(err) => return Err(err),
            };
            let (mut low, mut high) = (0, index.len());
            while low < high {
                let middle = low + (high - low) / 2;
                match prefix.cmp_oid(index.oid(middle)) {
                    Ordering::Greater => low = middle + 1,
                    _ => high = middle,
                }
            }
            let matching = (low..index.len()).map(|pos| index.oid(pos));
            let matching = matching.take_while(|id| prefix.cmp_oid(id) == Ordering::Equal);
            found.extend(matching.take(most).map(|id| id.to_owned()));
        }
        let (fan, rest) = digits.split_at(2);
        for objects in self.object_dirs() {
            let path = objects.join(fan);
            let io = |source: io::Error| OdbError::Io {
                doing: "list",
                path: path.clone(),
                source,
            };
            let entries = match std::fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(err) if is_absent(&err) => continue,
                Err(err) => return Err(io(err)),
            };
            for entry in entries {
                let name = entry.map_err(io)?.file_name();
                let name = name.as_encoded_bytes();
                if name.starts_with(rest.as_bytes())
                    && found.len() < most
                    && let Ok(id) = ObjectId::from_hex([fan.as_bytes(), name].concat().as_bytes())
                    && id.kind() == self.hash_kind()
                {
                    found.insert(id);
                }
            }
        }
        Ok(found.into_iter().take(most).collect())
    }
}

//! POSIX access control lists, as far as they decide whether a user may read a file: the extended
//! attribute `system.posix_acl_access` (acl(5), the kernel's `posix_acl_xattr.h`).
//!
//! ```text
//! version: u32 = 2 | entries, 8 bytes each: tag: u16 | permissions: u16 | id: u32      (little endian)
//! ```
//!
//! The mode bits do not say enough where there is a list: the bits of the group are its mask then.
//! Pure; `io` reads the attribute.

/// The attribute's name.
pub const ATTRIBUTE: &str = "system.posix_acl_access";
/// Largest value the kernel keeps, in bytes.
pub const ATTRIBUTE_MAX: usize = 65_536;

const VERSION: u32 = 2;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// A list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList(Vec<(u16, u16, u32)>);

/// Who asks, and whose the file is.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The user's number.
    pub uid: u32,
    /// The numbers of its groups.
    pub groups: &'a [u32],
    /// The file's owner.
    pub owner: u32,
    /// The file's group.
    pub group: u32,
}

impl AccessList {
    /// Parses the attribute; `None` for another version or length.
    pub fn parse(bytes: &[u8]) -> Option<AccessList> {
        let (version, entries) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || !entries.len().is_multiple_of(ENTRY) {
            return None;
        }
        let entry = |bytes: &[u8]| {
            let (tag, bytes) = bytes.split_first_chunk::<2>()?;
            let (permissions, id) = bytes.split_first_chunk::<2>()?;
            let id = u32::from_le_bytes(*id.first_chunk()?);
            Some((u16::from_le_bytes(*tag), u16::from_le_bytes(*permissions), id))
        };
        entries.chunks_exact(ENTRY).map(entry).collect::<Option<Vec<_>>>().map(AccessList)
    }

    /// Whether it grants `bit` (4 read, 1 search), by the algorithm of acl(5). Not for root.
    pub fn grants(&self, asker: &Asker<'_>, bit: u32) -> bool {
        let has = |permissions: u16| u32::from(permissions) & bit != 0;
        let of = |wanted: u16| {
            self.0
                .iter()
                .find(|(tag, ..)| *tag == wanted)
                .is_some_and(|(_, permissions, _)| has(*permissions))
        };
        let masked = |permissions: u16| {
            let mask = self.0.iter().find(|(tag, ..)| *tag == MASK);
            has(permissions) && mask.is_none_or(|(_, mask, _)| has(*mask))
        };
        if asker.uid == asker.owner {
            return of(USER_OBJ);
        }
        if let Some((_, permissions, _)) = self.0.iter().find(|(tag, _, id)| *tag == USER && *id == asker.uid)
        {
            return masked(*permissions);
        }
        let is_of_group = |tag: u16, id: u32| match tag {
            GROUP_OBJ => asker.groups.contains(&asker.group),
            GROUP => asker.groups.contains(&id),
            _ => false,
        };
        let mut groups = self.0.iter().filter(|(tag, _, id)| is_of_group(*tag, *id)).peekable();
        if groups.peek().is_some() {
            return groups.any(|(_, permissions, _)| masked(*permissions));
        }
        of(OTHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> AccessList {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&permissions.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        AccessList::parse(&bytes).unwrap()
    }

    #[test]
    fn a_list_decides_by_owner_then_named_user_then_groups_then_others() {
        let asker = |uid, groups| Asker { uid, groups, owner: 0, group: 0 };
        // setfacl -m u:990:r FILE, of mode 0600
        let named = list(&[(USER_OBJ, 6, 0), (USER, 4, 990), (GROUP_OBJ, 0, 0), (MASK, 4, 0), (OTHER, 0, 0)]);
        assert!(named.grants(&asker(990, &[990]), 4));
        assert!(!named.grants(&asker(991, &[991]), 4));
        assert!(named.grants(&asker(0, &[0]), 4), "the owner");
        // A mask takes it away again.
        let masked =
            list(&[(USER_OBJ, 6, 0), (USER, 4, 990), (GROUP_OBJ, 0, 0), (MASK, 0, 0), (OTHER, 4, 0)]);
        assert!(!masked.grants(&asker(990, &[990]), 4), "others may, this one may not");
        assert!(masked.grants(&asker(991, &[991]), 4));
        // The bits of the group are the mask: they say 4, and the group has nothing.
        let group = list(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 0, 0), (GROUP, 4, 77), (MASK, 4, 0), (OTHER, 4, 0)]);
        assert!(!group.grants(&asker(990, &[0]), 4));
        assert!(group.grants(&asker(990, &[77]), 4));
        assert!(group.grants(&asker(990, &[0, 77]), 4), "one of its groups may");
        assert!(!group.grants(&asker(990, &[0, 77]), 1));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for bytes in [&b""[..], b"\x01\0\0\0", b"\x02\0\0\0\x01", b"\x02\0\0"] {
            assert_eq!(AccessList::parse(bytes), None);
        }
        assert_eq!(AccessList::parse(b"\x02\0\0\0"), Some(AccessList(Vec::new())));
    }
}

//! A clock that stands still, for tests.

use super::{UnixTime, WallClock};

/// A clock at so many seconds since 1970, which is trusted or not. Its floor is 2020-09-13.
pub(crate) struct At(pub(crate) u64, pub(crate) bool);

impl WallClock for At {
    fn raw(&self) -> UnixTime {
        UnixTime::from_secs(self.0)
    }

    fn trusted(&self) -> bool {
        self.1
    }

    fn floor(&self) -> UnixTime {
        UnixTime::from_secs(1_600_000_000)
    }
}

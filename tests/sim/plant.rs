//! Faults that the self-test plants, each in an adapter of the simulation around the product.

/// What the simulated gateway does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plant {
    /// Nothing: the product as it is.
    #[default]
    Nothing,
    /// The store completes a reading when it is appended.
    AnswerBeforeCommit,
    /// A record is released when it is handed to the uplink.
    ReleaseBeforePuback,
    /// A release passes a record that is on its way to the rejected store.
    ReleaseBeforeReject,
    /// What the gate refused is appended to the journal all the same.
    RuleBypassed,
    /// A refused reading is counted as stored.
    RefusedCountedAsStored,
    /// The store says that it has what it refused.
    RefusalSwallowed,
    /// A record is published under the topic of another device.
    WrongDevice,
    /// A payload is changed on the way.
    PayloadChanged,
    /// Losses are not told to the uplink.
    LossUntold,
    /// The journal forgets when it is to commit.
    DeadlineForgotten,
    /// The run of record ids is the same at each opening.
    RunRepeated,
    /// The disk forgets the last synced minutes at a power cut.
    DiskForgets,
    /// What goes to a plain address goes forty times.
    Amplifies,
    /// The quota is not applied: each reading finds its bucket full.
    QuotaIgnored,
    /// Records expire at once when the clock is set.
    ExpiresEarly,
}

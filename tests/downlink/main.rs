//! Commands through mailbox and delivery in virtual time: a broker that sends again what was not
//! acknowledged, a device that sleeps, a disk that loses power or errs.

mod crash;
mod heap;
mod lossy;
mod mailbox;
mod observe;
mod refresh;
mod served;
mod world;

//! All classes, and the answer to a device that asks.
//!
//! | request | answer |
//! |---|---|
//! | of a device whose role has no `firmware`, or another class | 4.03 |
//! | `/firmware/CLASS`, also with `?v=VERSION` | the [manifest] of the image for this device; 4.04 if there is none |
//! | the same with Accept 42, for a SUIT envelope | the envelope itself |
//! | `/firmware/CLASS/TAG` | the block that was asked for, of the image that has this tag |
//! | an image that is not kept any more, never was, or whose version is denied | 4.04 |
//! | an image that is not for this device yet | 4.03 |
//! | a block beyond the end | 4.00 |
//! | another format in Accept | 4.06 |
//! | before the files were verified after the start | 5.03 |
//!
//! A block is read from the file when it is asked for: no transfer is remembered, so a device goes
//! on from any block, after any time, over any session.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};

use super::campaign::{Campaign, Change};
use super::choice::denied_name;
use super::kept::{Image, Kept};
use super::manifest;
use super::settings::SensorFirmware;
use crate::message::{ContentFormat, Name};
use crate::proto::coap::Code;
use crate::proto::coap::block::{Block, SIZE_EXPONENT_MAX};

/// Max-Age of a manifest, in seconds.
pub const MANIFEST_MAX_AGE: u32 = 600;
/// Max-Age of a refusal that is over soon, in seconds.
pub const SOON: u32 = 10;

/// What a device asks.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// The device.
    pub device: &'q Name,
    /// Its role.
    pub role: &'q Name,
    /// The class in the path.
    pub class: &'q str,
    /// The tag in the path.
    pub tag: Option<&'q str>,
    /// The version that it says it runs.
    pub version: Option<&'q str>,
    /// The representations that it has.
    pub etags: &'q [Vec<u8>],
    /// The only format that it wants.
    pub accept: Option<ContentFormat>,
    /// The block that it asks for.
    pub block: Option<Block>,
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The manifest.
    Manifest {
        /// In this format.
        format: ContentFormat,
        /// Its bytes.
        body: Vec<u8>,
        /// Of these bytes.
        etag: [u8; 8],
    },
    /// 2.03: it has this representation.
    Valid([u8; 8]),
    /// A piece of an image, to be read.
    Read(Piece),
    /// A refusal.
    Refused {
        /// 4.xx or 5.03.
        code: Code,
        /// The diagnostic.
        text: &'static str,
        /// When to try again, in seconds.
        max_age: Option<u32>,
    },
}

/// A piece of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The class.
    pub class: Name,
    /// The image's tag.
    pub tag: String,
    /// Where it begins.
    pub offset: u64,
    /// Bytes, `1..=1024`.
    pub length: usize,
    /// Bytes of the image.
    pub whole: u64,
    /// Of the image.
    pub etag: [u8; 8],
}

impl Piece {
    /// Whether the image ends with it.
    pub fn is_last(&self) -> bool {
        self.offset + self.length as u64 >= self.whole
    }
}

/// One class.
#[derive(Debug, Default)]
pub struct Class {
    /// Its images, whose files were verified.
    pub kept: Kept,
    /// How the first of them goes out.
    pub campaign: Campaign,
    /// The files were not verified yet.
    pub is_loading: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Library {
    settings: SensorFirmware,
    classes: BTreeMap<Name, Class>,
    /// [Names](denied_name) of versions that are neither offered nor served.
    denied: Vec<String>,
}

impl Library {
    /// With these settings, and nothing loaded.
    pub fn new(settings: SensorFirmware) -> Library {
        let mut library = Library::default();
        library.replace(settings);
        library
    }

    /// Goes on by other settings. The classes that are new, to be loaded.
    pub fn replace(&mut self, settings: SensorFirmware) -> Vec<Name> {
        let classes = settings.classes();
        self.settings = settings;
        self.classes.retain(|class, _| classes.contains(class));
        let new: Vec<Name> = classes.into_iter().filter(|class| !self.classes.contains_key(class)).collect();
        for class in &new {
            self.classes.insert(class.clone(), Class { is_loading: true, ..Class::default() });
        }
        new
    }

    /// These versions are neither offered nor served, by their [names](denied_name).
    pub fn set_denied(&mut self, denied: &[String]) {
        if self.denied != denied {
            self.denied = denied.to_vec();
        }
    }

    /// The settings.
    pub fn settings(&self) -> &SensorFirmware {
        &self.settings
    }

    /// The classes by name.
    pub fn classes(&self) -> &BTreeMap<Name, Class> {
        &self.classes
    }

    /// A class, to be changed.
    pub fn class_mut(&mut self, class: &str) -> Option<&mut Class> {
        self.classes.get_mut(class)
    }

    /// The images of a class are these, and their files were verified.
    pub fn set_kept(&mut self, class: &str, kept: Kept) {
        if let Some(found) = self.classes.get_mut(class) {
            found.campaign.begin(kept.current());
            (found.kept, found.is_loading) = (kept, false);
        }
    }

    /// Whether this version of a class is denied.
    pub fn is_denied(&self, class: &str, version: &str) -> bool {
        self.denied.contains(&denied_name(class, version))
    }

    /// The class of a role's devices.
    pub fn class_of(&self, role: &str) -> Option<&Name> {
        self.settings.roles.get(role).map(|role| &role.class)
    }

    /// What a device reported that it runs.
    pub fn note_reported(&mut self, device: &Name, role: &Name, version: &str) {
        let class = self.class_of(role.as_str()).cloned();
        if let Some(found) = class.and_then(|class| self.classes.get_mut(&class)) {
            found.campaign.note_reported(device, version);
        }
    }

    /// A piece was sent.
    pub fn note_sent(&mut self, device: &Name, piece: &Piece) {
        if let Some(found) = self.classes.get_mut(&piece.class)
            && found.kept.current().is_some_and(|image| image.tag() == piece.tag)
        {
            let end = piece.offset + piece.length as u64;
            found.campaign.note_sent(device, end, piece.is_last());
        }
    }

    /// What has become due, by class. `has`: whether there is a device with such a role and id.
    pub fn care(
        &mut self,
        elapsed_s: u64,
        has: impl Fn(&mut dyn FnMut(&Name, &Name) -> bool) -> bool,
    ) -> Vec<(Name, Change)> {
        let mut changes = Vec::new();
        let SensorFirmware { roles, rollout, .. } = &self.settings;
        for (name, class) in &mut self.classes {
            let Class { kept, campaign, .. } = class;
            let Some(image) = kept.current() else { continue };
            let of = campaign.care(elapsed_s, image, rollout, |is_it| {
                has(&mut |role, id| roles.get(role).is_some_and(|of| of.class == *name) && is_it(id))
            });
            changes.extend(of.into_iter().map(|change| (name.clone(), change)));
        }
        changes
    }

    /// Answers.
    pub fn answer(&mut self, question: &Question<'_>) -> Answer {
        let Library { settings, classes, denied } = self;
        let role = settings.roles.get(question.role.as_str());
        let Some(role) = role.filter(|role| role.class.as_str() == question.class) else {
            return refused(Code::FORBIDDEN, "no firmware of this class");
        };
        let Some(class) = classes.get_mut(&role.class) else {
            return refused(Code::FORBIDDEN, "no firmware of this class");
        };
        if let Some(version) = question.version {
            class.campaign.note_reported(question.device, version);
        }
        if class.is_loading {
            return Answer::Refused {
                code: Code::SERVICE_UNAVAILABLE,
                text: "being verified",
                max_age: Some(SOON),
            };
        }
        let Class { kept, campaign, .. } = class;
        let is_denied = |image: &&Image| denied.contains(&denied_name(role.class.as_str(), &image.version));
        let is_for = |image: &Image, campaign: &Campaign| {
            kept.current() != Some(image) || campaign.admits(question.device, image, &settings.rollout)
        };
        if let Some(tag) = question.tag {
            return match kept.image(tag).filter(|image| !is_denied(image)) {
                None => refused(Code::NOT_FOUND, "not kept"),
                Some(image) if !is_for(image, campaign) => refused(Code::FORBIDDEN, "not yet"),
                Some(image) => piece(&role.class, image, question),
            };
        }
        let mut offered = kept.images.iter().filter(|image| !kept.is_withdrawn && !is_denied(image));
        let Some(image) = offered.find(|image| is_for(image, campaign)) else {
            return refused(Code::NOT_FOUND, "none for this device");
        };
        let format = match question.accept {
            None | Some(ContentFormat::JSON) => ContentFormat::JSON,
            Some(ContentFormat::CBOR) => ContentFormat::CBOR,
            Some(ContentFormat::OCTET_STREAM) if image.is_suit => {
                return piece(&role.class, image, question);
            }
            Some(_) => return refused(Code::NOT_ACCEPTABLE, "only JSON or CBOR"),
        };
        if kept.current() == Some(image) {
            campaign.note_offered(question.device);
        }
        let body = manifest::encode(question.class, image, format);
        let mut etag = [0; 8];
        etag.copy_from_slice(&digest(&SHA256, &body).as_ref()[..8]);
        if question.etags.iter().any(|known| known[..] == etag) {
            return Answer::Valid(etag);
        }
        Answer::Manifest { format, body, etag }
    }
}

fn piece(class: &Name, image: &Image, question: &Question<'_>) -> Answer {
    if question.accept.is_some_and(|accept| accept != ContentFormat::OCTET_STREAM) {
        return refused(Code::NOT_ACCEPTABLE, "only octet-stream");
    }
    let wanted = question.block.unwrap_or(Block { number: 0, more: false, size_exponent: SIZE_EXPONENT_MAX });
    let offset = wanted.offset() as u64;
    let etag = image.etag();
    if offset == 0 && question.etags.iter().any(|known| known[..] == etag) {
        return Answer::Valid(etag);
    }
    if offset >= image.bytes {
        return refused(Code::BAD_REQUEST, "beyond the end");
    }
    let length = (image.bytes - offset).min(wanted.size() as u64) as usize;
    Answer::Read(Piece { class: class.clone(), tag: image.tag(), offset, length, whole: image.bytes, etag })
}

fn refused(code: Code, text: &'static str) -> Answer {
    Answer::Refused { code, text, max_age: None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::kept::tests::image;
    use super::super::settings::{RoleFirmware, Rollout};
    use super::*;
    use crate::update::rollout::Share;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    /// The role `door` has the class `lock`, of which 1.0.0 and then 2.0.0 came; 2,500 bytes each.
    struct World(Library);

    impl World {
        fn new() -> World {
            let mut settings = SensorFirmware::default();
            settings.roles.insert(name("door"), RoleFirmware { class: name("lock") });
            let mut library = Library::new(settings);
            let mut kept = Kept::default();
            kept.take(image("1.0.0", 1, 2_500));
            library.set_kept("lock", kept.clone());
            kept.take(image("2.0.0", 2, 2_500));
            library.set_kept("lock", kept);
            World(library)
        }

        fn ask(&mut self, change: impl FnOnce(&mut Question<'_>)) -> Answer {
            let (device, role) = (name("a"), name("door"));
            let mut question = Question {
                device: &device,
                role: &role,
                class: "lock",
                tag: None,
                version: None,
                etags: &[],
                accept: None,
                block: None,
            };
            // The closure may only put in what lives for good.
            change(&mut question);
            self.0.answer(&question)
        }

        fn code(&mut self, change: impl FnOnce(&mut Question<'_>)) -> Code {
            match self.ask(change) {
                Answer::Refused { code, .. } => code,
                Answer::Valid(_) => Code::VALID,
                Answer::Manifest { .. } | Answer::Read(_) => Code::CONTENT,
            }
        }

        fn manifest(&mut self) -> String {
            match self.ask(|_| {}) {
                Answer::Manifest { body, .. } => String::from_utf8(body).expect("JSON"),
                other => panic!("{other:?}"),
            }
        }
    }

    const OLD: &str = "0101010101010101";
    const NEW: &str = "0202020202020202";

    #[test]
    fn each_block_is_read_where_it_is_and_the_last_one_is_short() {
        let mut world = World::new();
        for (number, size_exponent, offset, length) in
            [(0, 6, 0, 1024), (1, 6, 1024, 1024), (2, 6, 2048, 452), (156, 0, 2496, 4)]
        {
            let block = Some(Block { number, more: false, size_exponent });
            let answer = world.ask(|of| (of.tag, of.block) = (Some(NEW), block));
            let Answer::Read(piece) = answer else { panic!("{answer:?}") };
            assert_eq!((piece.offset, piece.length, piece.whole), (offset, length, 2_500));
            assert_eq!((piece.is_last(), piece.etag), (offset + length as u64 == 2_500, [2; 8]));
        }
        let beyond = Some(Block { number: 3, more: false, size_exponent: 6 });
        assert_eq!(world.code(|of| (of.tag, of.block) = (Some(NEW), beyond)), Code::BAD_REQUEST);
    }

    #[test]
    fn a_device_gets_the_firmware_of_its_role_and_no_other() {
        let mut world = World::new();
        static OTHER: std::sync::LazyLock<Name> = std::sync::LazyLock::new(|| name("window"));
        assert_eq!(world.code(|of| of.role = &OTHER), Code::FORBIDDEN);
        assert_eq!(world.code(|of| of.class = "roof"), Code::FORBIDDEN);
        assert_eq!(world.code(|of| of.tag = Some("0303030303030303")), Code::NOT_FOUND);
        assert_eq!(world.code(|of| of.accept = Some(ContentFormat::TEXT)), Code::NOT_ACCEPTABLE);
        assert_eq!(world.code(|of| of.accept = Some(ContentFormat::OCTET_STREAM)), Code::NOT_ACCEPTABLE);
        assert_eq!(world.code(|of| of.accept = Some(ContentFormat::CBOR)), Code::CONTENT);
        world.0.class_mut("lock").expect("it is there").is_loading = true;
        assert_eq!(world.code(|_| {}), Code::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_version_that_is_replaced_is_served_to_its_end_and_then_not_found() {
        let mut world = World::new();
        assert_eq!(world.code(|of| of.tag = Some(OLD)), Code::CONTENT);
        let mut kept = world.0.classes()["lock"].kept.clone();
        kept.take(image("3.0.0", 3, 10));
        world.0.set_kept("lock", kept.clone());
        assert_eq!(world.code(|of| of.tag = Some(OLD)), Code::NOT_FOUND);
        assert_eq!(world.code(|of| of.tag = Some(NEW)), Code::CONTENT);
        kept.is_withdrawn = true;
        world.0.set_kept("lock", kept);
        assert_eq!(world.code(|_| {}), Code::NOT_FOUND, "nothing is offered");
        assert_eq!(world.code(|of| of.tag = Some(NEW)), Code::CONTENT, "what runs ends");
    }

    #[test]
    fn a_version_that_is_denied_is_neither_offered_nor_served() {
        let mut world = World::new();
        world.0.set_denied(&["2.0.0".to_owned(), "roof/2.0.0".to_owned()]);
        assert!(world.manifest().contains("2.0.0"), "that of the gateway, and of another class");
        world.0.set_denied(&["lock/2.0.0".to_owned()]);
        assert!(world.manifest().contains("1.0.0"));
        assert_eq!(world.code(|of| of.tag = Some(NEW)), Code::NOT_FOUND);
        assert_eq!(world.code(|of| of.tag = Some(OLD)), Code::CONTENT);
        world.0.set_denied(&["lock/2.0.0".to_owned(), "lock/1.0.0".to_owned()]);
        assert_eq!(world.code(|_| {}), Code::NOT_FOUND);
        world.0.set_denied(&[]);
        assert!(world.manifest().contains("2.0.0"));
    }

    #[test]
    fn a_device_whose_turn_it_is_not_gets_the_version_before() {
        let mut world = World::new();
        assert!(world.manifest().contains("2.0.0"));
        let mut kept = world.0.classes()["lock"].kept.clone();
        kept.images[0].share = Share::from_percent(0.0).expect("a share");
        world.0.set_kept("lock", kept);
        assert!(world.manifest().contains("1.0.0"));
        assert_eq!(world.code(|of| of.tag = Some(NEW)), Code::FORBIDDEN);
        assert_eq!(world.code(|of| of.tag = Some(OLD)), Code::CONTENT);
    }

    #[test]
    fn a_version_that_fails_is_stopped_and_the_one_before_is_offered_again() {
        let mut world = World::new();
        let mut settings = world.0.settings().clone();
        settings.rollout =
            Rollout { failures: 1, report_within: Duration::from_secs(60), ..Rollout::default() };
        assert!(world.0.replace(settings).is_empty());
        assert!(world.manifest().contains("2.0.0"));
        let last = Some(Block { number: 2, more: false, size_exponent: 6 });
        let Answer::Read(piece) = world.ask(|of| (of.tag, of.block) = (Some(NEW), last)) else {
            panic!("no block")
        };
        world.0.note_sent(&name("a"), &piece);
        assert_eq!(world.0.care(59, |_| false), []);
        assert_eq!(world.0.care(1, |_| false).len(), 1);
        assert!(world.manifest().contains("1.0.0"));
        assert_eq!(world.code(|of| of.tag = Some(NEW)), Code::FORBIDDEN);
        // It runs after all.
        assert_eq!(world.code(|of| of.version = Some("2.0.0")), Code::CONTENT);
        assert!(world.manifest().contains("2.0.0"));
    }

    #[test]
    fn what_a_device_has_is_valid_and_a_suit_envelope_is_passed_through() {
        let mut world = World::new();
        let Answer::Manifest { etag, .. } = world.ask(|_| {}) else { panic!("no manifest") };
        let known: &'static [Vec<u8>] = Vec::leak(vec![vec![1], etag.to_vec(), vec![2; 8]]);
        assert_eq!(world.code(|of| of.etags = known), Code::VALID);
        assert_eq!(
            world.code(|of| (of.etags, of.accept) = (known, Some(ContentFormat::CBOR))),
            Code::CONTENT
        );
        assert_eq!(world.code(|of| (of.etags, of.tag) = (known, Some(NEW))), Code::VALID);
        let mut kept = world.0.classes()["lock"].kept.clone();
        kept.images[0].is_suit = true;
        world.0.set_kept("lock", kept);
        let answer = world.ask(|of| of.accept = Some(ContentFormat::OCTET_STREAM));
        assert!(matches!(answer, Answer::Read(Piece { offset: 0, length: 1024, .. })), "{answer:?}");
    }
}

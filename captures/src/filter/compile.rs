//! libpcap's filter compiler, loaded at run time.
//! Never opens a device or a file with libpcap, and never keeps anything it allocated.
//!
//! Names in an expression (hosts, networks, ports, protocols) resolve as tcpdump resolves them, on
//! this machine and at this moment: a host name asks the system's resolver, which can take seconds.
//! Compile on a thread that may block, and put addresses where that is unwanted.
#![expect(unsafe_code, reason = "libpcap is a C library; it is called here and nowhere else")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::ptr;
use std::slice;
use std::sync::{Mutex, PoisonError};

use libloading::Library;

use super::error::{FilterError, advice};
use super::program::Instruction;
use super::treatment::{Reading, Treatment};
use super::{Filter, place, program};
use crate::{LinkType, Snaplen};

/// Longest expression, in bytes.
///
/// libpcap's optimiser takes cubic time: `port 1 or port 2 or ...` of this length compiles in about
/// a second, one of twice the length in eleven.
pub const FILTER_MAX: usize = 2048;

/// Names of the library: Debian's and Ubuntu's, Fedora's and others', and that of -dev packages.
const NAMES: [&str; 3] = ["libpcap.so.0.8", "libpcap.so.1", "libpcap.so"];

const REMEDY: &str =
    "install it with `apt install libpcap0.8` (Debian, Ubuntu) or `dnf install libpcap`";

/// `PCAP_NETMASK_UNKNOWN`: `ip broadcast` is refused, as there is no one network here.
const NETMASK_UNKNOWN: c_uint = u32::MAX;

/// `PCAP_TSTAMP_PRECISION_NANO`.
const NANOSECONDS: c_uint = 1;

/// The compiler kept global state until libpcap 1.8, so that one expression is compiled at a time;
/// one that waits for the resolver lets the others wait.
static COMPILING: Mutex<()> = Mutex::new(());

/// `pcap_t`, which is opaque.
#[repr(C)]
struct Handle {
    _opaque: [u8; 0],
}

/// `struct bpf_program`.
#[repr(C)]
struct Program {
    len: c_uint,
    instructions: *mut Instruction,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int, c_uint) -> *mut Handle;
type Compile =
    unsafe extern "C" fn(*mut Handle, *mut Program, *const c_char, c_int, c_uint) -> c_int;
type GetError = unsafe extern "C" fn(*mut Handle) -> *const c_char;
type FreeCode = unsafe extern "C" fn(*mut Program);
type Close = unsafe extern "C" fn(*mut Handle);

/// libpcap, loaded. One per process is enough; it can be shared between threads.
#[derive(Debug)]
pub struct Libpcap {
    open_dead: OpenDead,
    compile: Compile,
    get_error: GetError,
    free_code: FreeCode,
    close: Close,
    /// Keeps the code behind the pointers above in memory.
    _library: Library,
}

impl Libpcap {
    /// Finds and loads the library.
    pub fn load() -> Result<Self, FilterError> {
        Self::load_first_of(&NAMES)
    }

    fn load_first_of(names: &[&str]) -> Result<Self, FilterError> {
        let mut reason = String::new();
        for name in names {
            match Self::load_one(name) {
                Ok(libpcap) => return Ok(libpcap),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(FilterError::LibpcapMissing { reason, remedy: REMEDY })
    }

    fn load_one(name: &str) -> Result<Self, libloading::Error> {
        // SAFETY: loading runs the library's initialisers; libpcap has none that need anything of
        // the program. The name is a fixed one that the dynamic linker resolves.
        let library = unsafe { Library::new(name) }?;
        // SAFETY: the types are those of pcap(3PCAP) in every version that has the symbol
        // (pcap_open_dead_with_tstamp_precision since 1.5.1), and the pointers are used only while
        // `_library` is there.
        unsafe {
            Ok(Self {
                open_dead: *library.get::<OpenDead>(b"pcap_open_dead_with_tstamp_precision\0")?,
                compile: *library.get::<Compile>(b"pcap_compile\0")?,
                get_error: *library.get::<GetError>(b"pcap_geterr\0")?,
                free_code: *library.get::<FreeCode>(b"pcap_freecode\0")?,
                close: *library.get::<Close>(b"pcap_close\0")?,
                _library: library,
            })
        }
    }

    /// Compiles an expression in tcpdump's language for packets of `link_type`, which are read as they are.
    ///
    /// An empty expression (or one of white space) matches everything. `snaplen` is what the
    /// program returns for a match; it cuts nothing here.
    ///
    /// For [`LinkType::NULL`] the program looks for Linux's address families: libpcap takes it for
    /// a capture of this machine. Files of that type from BSD and macOS have others for IPv6.
    pub fn compile(
        &self,
        expression: &str,
        link_type: LinkType,
        snaplen: Snaplen,
    ) -> Result<Filter, FilterError> {
        if expression.len() > FILTER_MAX {
            return Err(FilterError::TooLong { bytes: expression.len() });
        }
        let text = CString::new(expression).map_err(|_| FilterError::NulByte)?;
        if expression.trim().is_empty() {
            return Ok(Filter::match_all(link_type));
        }
        let instructions = self
            .instructions(&text, link_type, snaplen)
            .map_err(|reason| self.mistake(expression, link_type, reason))?;
        if program::asks_the_kernel(&instructions) {
            return Err(FilterError::NotOfTheFrame { expression: expression.to_owned() });
        }
        Filter::try_new(expression, link_type, instructions)
            .map_err(|source| FilterError::Program { expression: expression.to_owned(), source })
    }

    /// As [`Self::compile`], for packets that are read as `treatment` says.
    ///
    /// What a raw IP packet's tunnel carries may be Ethernet, so that a second program is compiled for it.
    pub fn compile_as(
        &self,
        treatment: Treatment,
        expression: &str,
        link_type: LinkType,
        snaplen: Snaplen,
    ) -> Result<Filter, FilterError> {
        let filter = self.compile(expression, link_type, snaplen)?;
        let reading = Reading::of(treatment, expression, link_type);
        let for_inner = if reading.tunnel_closed.is_none() && link_type != LinkType::ETHERNET {
            let inner = self.compile(expression, LinkType::ETHERNET, snaplen)?;
            Some(inner.instructions)
        } else {
            None
        };
        Ok(filter.read_as(reading, for_inner))
    }

    /// What is wrong with an expression, and where.
    fn mistake(&self, expression: &str, link_type: LinkType, reason: String) -> FilterError {
        let complaint = |text: &str| {
            let text = CString::new(text).ok()?;
            self.instructions(&text, link_type, Snaplen::WHOLE).err()
        };
        let place = place::find(expression, &reason, complaint);
        FilterError::Expression {
            expression: expression.to_owned(),
            advice: advice(&reason, place.as_ref().map(|place| place.token.as_str())),
            position: place.as_ref().map(|place| place.position),
            token: place.map(|place| place.token),
            reason,
        }
    }

    /// The program libpcap makes of `text`, or its message.
    fn instructions(
        &self,
        text: &CStr,
        link_type: LinkType,
        snaplen: Snaplen,
    ) -> Result<Vec<Instruction>, String> {
        // The lock guards no data of ours, so that a panic elsewhere while it was held is no harm.
        let _compiling = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
        let snaplen = c_int::try_from(snaplen.bytes()).unwrap_or(c_int::MAX);
        // SAFETY: takes three numbers and returns a new handle or null.
        let handle = unsafe { (self.open_dead)(dlt(link_type), snaplen, NANOSECONDS) };
        if handle.is_null() {
            return Err(format!("libpcap cannot filter link type {link_type}"));
        }
        let mut program = Program { len: 0, instructions: ptr::null_mut() };
        // SAFETY: the handle is live, the program is ours to be filled, the text ends in a NUL and
        // outlives the call.
        let status =
            unsafe { (self.compile)(handle, &raw mut program, text.as_ptr(), 1, NETMASK_UNKNOWN) };
        let compiled = if status == 0 && !program.instructions.is_null() {
            let len = usize::try_from(program.len).unwrap_or(0);
            // SAFETY: after success the program holds `len` instructions, whose layout
            // `Instruction` has (`struct bpf_insn`), until it is freed below.
            Ok(unsafe { slice::from_raw_parts(program.instructions, len) }.to_vec())
        } else {
            // SAFETY: the message is a string inside the live handle.
            let message = unsafe { CStr::from_ptr((self.get_error)(handle)) };
            let message = message.to_string_lossy();
            let shorter = message.strip_prefix("can't parse filter expression: ");
            Err(shorter.unwrap_or(&message).to_owned())
        };
        // SAFETY: freeing a program that was filled or is empty (null) is what this is for, and
        // neither it nor the handle is used again.
        unsafe {
            (self.free_code)(&raw mut program);
            (self.close)(handle);
        }
        compiled
    }
}

/// The `DLT_` number of a `LINKTYPE_`, which is the same but for those that differ between
/// systems; these are Linux's (`pcap-common.c`).
fn dlt(link_type: LinkType) -> c_int {
    c_int::from(match link_type.0 {
        100 => 11,
        101 => 12,
        102 => 15,
        103 => 16,
        106 => 19,
        same => same,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::program::ProgramError;
    use super::super::run::run;
    use super::*;

    fn compile(expression: &str) -> Option<Result<Filter, FilterError>> {
        match Libpcap::load() {
            Ok(libpcap) => Some(libpcap.compile(expression, LinkType::ETHERNET, Snaplen::WHOLE)),
            Err(error) => {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{error}");
                None
            }
        }
    }

    #[test]
    fn a_missing_library_says_what_to_install() {
        let error = Libpcap::load_first_of(&["libno-such-thing.so.9"]).unwrap_err();
        assert!(error.to_string().contains("apt install libpcap0.8"), "{error}");
    }

    #[test]
    fn an_expression_becomes_the_program_that_tcpdump_prints() {
        let Some(filter) = compile("ip proto 6") else { return };
        let filter = filter.unwrap();
        // tcpdump -dd -s 262144 ip proto 6
        let expected = [
            (0x28, 0, 0, 12),
            (0x15, 0, 3, 0x800),
            (0x30, 0, 0, 23),
            (0x15, 0, 1, 6),
            (0x06, 0, 0, 262_144),
            (0x06, 0, 0, 0),
        ]
        .map(|(code, jt, jf, k)| Instruction { code, jt, jf, k });
        assert_eq!(filter.instructions(), expected);
        assert_eq!((filter.expression(), filter.link_type()), ("ip proto 6", LinkType::ETHERNET));
    }

    #[test]
    fn mistakes_are_told_with_libpcaps_words() {
        let Some(result) = compile("tcp prot 80") else { return };
        let error = result.unwrap_err();
        let expected =
            "cannot compile the capture filter `tcp prot 80`: syntax error at `prot` (byte 4); ";
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (expression, position, token) in [
            ("prot 80", Some(0), "prot"),
            ("tcp port 80 and and udp", Some(16), "and"),
            ("tcp port 80 ; udp", Some(12), ";"),
            ("tcp port 80 )", Some(12), ")"),
            ("(tcp or udp", Some(11), ""),
            ("tcp port ", Some(8), ""),
            ("tcp udp", Some(4), "udp"),
            ("port http or htpp", Some(13), "htpp"),
            ("port htpp or http", Some(5), "htpp"),
            ("port 80 or port 99999 or port 7", Some(16), "99999"),
            ("host 1.2.3.400 and tcp", Some(5), "1.2.3.400"),
            ("tcp and host no-such-host.invalid", Some(13), "no-such-host.invalid"),
            ("net 10.0.0.1/8", Some(4), "10.0.0.1"),
            ("tcp[tcpflag] = 1", Some(4), "tcpflag"),
            ("udp = ", Some(4), "="),
            ("len-1 > 3", Some(0), "len-1"),
            ("tcp src host 1.1.1.1", Some(0), "tcp"),
            ("udp and ip proto foo", Some(17), "foo"),
            ("udp and vlan 5000", Some(13), "5000"),
            ("tcp and \u{fc}ber", Some(8), "\u{fc}"),
        ] {
            let Some(result) = compile(expression) else { return };
            let error = result.unwrap_err();
            let FilterError::Expression { position: found, token: word, .. } = &error else {
                panic!("{expression}: {error:?}");
            };
            assert_eq!((*found, word.as_deref()), (position, Some(token)), "{error}");
        }
        let Some(result) = compile("ip and ip6") else { return };
        let error = result.unwrap_err();
        assert!(error.position().is_none() && error.to_string().contains("`or` may be"), "{error}");
    }

    #[test]
    fn filters_on_headers_reach_no_further_than_headers() {
        for (expression, reach) in
            [("ip proto 6", 24), ("udp port 53", 14 + 60 + 4), ("ether[1000] = 1", 1001), ("", 0)]
        {
            let Some(filter) = compile(expression) else { return };
            assert_eq!(filter.unwrap().reach(), reach, "{expression}");
        }
    }

    #[test]
    fn an_empty_expression_matches_everything() {
        for expression in ["", " \t"] {
            let Some(filter) = compile(expression) else { return };
            assert!(filter.unwrap().matches(&[], 0));
        }
    }

    #[test]
    fn what_libpcap_must_not_see_is_refused_before() {
        let Some(result) = compile("tcp\0or udp") else { return };
        assert!(matches!(result, Err(FilterError::NulByte)));
        let Some(result) = compile(&"x".repeat(FILTER_MAX + 1)) else { return };
        assert!(matches!(result, Err(FilterError::TooLong { bytes: 2049 })));
    }

    #[test]
    fn programs_with_loops_are_refused() {
        let Some(result) = compile("ip6 protochain 6") else { return };
        let error = result.unwrap_err();
        let FilterError::Program { source, .. } = error else { panic!("{error:?}") };
        assert!(matches!(source, ProgramError::Jump { .. }));
    }

    #[test]
    fn what_is_not_in_the_frame_is_refused() {
        for (expression, position) in [("inbound", 0), ("tcp and not outbound", 12)] {
            let Some(result) = compile(expression) else { return };
            let error = result.unwrap_err();
            assert!(matches!(error, FilterError::NotOfTheFrame { .. }), "{error:?}");
            assert_eq!(error.position(), Some(position), "{error}");
        }
    }

    #[test]
    fn raw_ip_has_another_number_inside_libpcap() {
        let Ok(libpcap) = Libpcap::load() else { return };
        let filter = libpcap.compile("ip6", LinkType::RAW, Snaplen::WHOLE).unwrap();
        assert!(filter.matches(&[0x60; 40], 40));
        assert!(!filter.matches(&[0x45; 40], 40));
    }

    #[test]
    fn deep_and_long_expressions_end_in_a_filter_or_an_error() {
        let Ok(libpcap) = Libpcap::load() else { return };
        let half = FILTER_MAX / 2 - 4;
        let nested = format!("{}tcp{}", "(".repeat(half), ")".repeat(half));
        let negated = format!("{}tcp", "! ".repeat(half));
        let hosts = vec!["host 10.0.0.1"; 120].join(" or ");
        let ports = (1..90).map(|port| format!("port {port}")).collect::<Vec<_>>().join(" or ");
        for expression in [nested, negated, hosts, ports] {
            assert!(expression.len() <= FILTER_MAX, "{}", expression.len());
            match libpcap.compile(&expression, LinkType::ETHERNET, Snaplen::WHOLE) {
                Ok(filter) => assert!(!filter.instructions().is_empty()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }

    /// libpcap's own interpreter, which `tcpdump -r` runs.
    struct Reference {
        library: Library,
    }

    type BpfFilter = unsafe extern "C" fn(*const Instruction, *const u8, c_uint, c_uint) -> c_uint;

    impl Reference {
        fn load() -> Option<Self> {
            NAMES.iter().find_map(|name| {
                // SAFETY: as in `Libpcap::load_one`.
                let library = unsafe { Library::new(name) }.ok()?;
                Some(Self { library })
            })
        }

        fn run(&self, program: &[Instruction], data: &[u8], original_len: u32) -> u32 {
            // SAFETY: the type is that of `bpf_filter` in pcap/bpf.h. The program has been
            // checked: it stays inside itself, the scratch memory and the data.
            unsafe {
                let run = self.library.get::<BpfFilter>(b"bpf_filter\0").unwrap();
                let len = c_uint::try_from(data.len()).unwrap();
                run(program.as_ptr(), data.as_ptr(), original_len, len)
            }
        }
    }

    /// Programs that check out, of any instructions; the scratch memory is set before, since
    /// libpcap leaves it undefined.
    fn programs() -> impl Strategy<Value = Filter> {
        let codes: Vec<u16> = (0..256)
            .filter(|&code| Instruction { code, jt: 0, jf: 0, k: 0 }.operation().is_some())
            .collect();
        let constant = prop_oneof![0_u32..20, 0_u32..80, any::<u32>()];
        let instruction = (select(codes), 0_u8..4, 0_u8..4, constant)
            .prop_map(|(code, jt, jf, k)| Instruction { code, jt, jf, k });
        vec(instruction, 1..24).prop_filter_map("not a sound program", |body| {
            let store = (0..16).map(|k| Instruction { code: 0x02, jt: 0, jf: 0, k });
            let mut program: Vec<_> = store.collect();
            for instruction in body {
                let mut longer = program.clone();
                longer.push(instruction);
                longer.extend([Instruction { code: 0x16, jt: 0, jf: 0, k: 0 }; 4]);
                if Filter::try_new("", LinkType::ETHERNET, longer).is_ok() {
                    program.push(instruction);
                }
            }
            program.extend([Instruction { code: 0x16, jt: 0, jf: 0, k: 0 }; 4]);
            Filter::try_new("", LinkType::ETHERNET, program).ok()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn every_sound_program_returns_what_libpcaps_interpreter_returns(
            filter in programs(),
            data in vec(any::<u8>(), 0..64),
            original_len in any::<u32>(),
        ) {
            let Some(reference) = Reference::load() else { return Ok(()) };
            let ours = run(filter.instructions(), data[..].into(), original_len);
            prop_assert_eq!(ours, reference.run(filter.instructions(), &data, original_len));
        }

        #[test]
        fn what_is_beyond_a_filters_reach_changes_nothing(
            filter in programs(),
            data in vec(any::<u8>(), 0..128),
            original_len in any::<u32>(),
        ) {
            let reach = usize::try_from(filter.reach()).unwrap().min(data.len());
            let cut = filter.matches(&data[..reach], original_len);
            prop_assert_eq!(cut, filter.matches(&data, original_len));
        }
    }
}

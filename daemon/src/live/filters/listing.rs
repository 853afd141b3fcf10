//! eBPF instructions as the kernel's verifier prints them (kernel/bpf/disasm.c), one line each. Knows those that
//! [`super::asm`] makes.

use super::asm::Word;

/// Names of the two maps, in the order in which programs use their descriptors.
const VIEWS: &str = "CAPTURE_VIEWS";
const PROGRAMS: &str = "CAPTURE_STAGE";

/// Lines of a program whose maps have these descriptors.
pub(super) fn listing(words: &[Word], views: i32) -> Vec<String> {
    let mut lines = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let Fields { code, to, from, value, .. } = fields(word);
        let mut size = 1;
        let text = if code == 0x18 {
            size = 2;
            let high = words.get(at + 1).map_or(0, |word| fields(word).value);
            if from == 1 {
                let map = if value == views { VIEWS } else { PROGRAMS };
                format!("r{to} = map[{map}]")
            } else {
                let wide = u64::from(high.cast_unsigned()) << 32 | u64::from(value.cast_unsigned());
                format!("r{to} = {wide:#x}")
            }
        } else {
            line(word)
        };
        lines.push(format!("{at}: ({code:02x}) {text}"));
        at += size;
    }
    lines
}

/// `struct bpf_insn`.
struct Fields {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    value: i32,
}

fn fields(word: &Word) -> Fields {
    let [code, registers, a, b, c, d, e, f] = *word;
    Fields {
        code,
        to: registers & 0xf,
        from: registers >> 4,
        offset: i16::from_ne_bytes([a, b]),
        value: i32::from_ne_bytes([c, d, e, f]),
    }
}

fn line(word: &Word) -> String {
    let Fields { code, to, from, offset, value } = fields(word);
    let has_register = code & 0x08 != 0;
    let kind = code & 0x07;
    match (code, kind) {
        (0x05, _) => format!("goto pc{offset:+}"),
        (0x85, _) => format!("call {}#{value}", helper(value)),
        (0x95, _) => "exit".to_owned(),
        (0xdc, _) => format!("r{to} = be{value} r{to}"),
        (_, 0x01) => format!("r{to} = *({} *)(r{from} {offset:+})", size(code)),
        (_, 0x02) => format!("*({} *)(r{to} {offset:+}) = {value}", size(code)),
        (_, 0x03) => format!("*({} *)(r{to} {offset:+}) = r{from}", size(code)),
        (_, 0x04 | 0x07) => {
            let register = if kind == 0x04 { 'w' } else { 'r' };
            match operator(code) {
                "neg" => format!("{register}{to} = -{register}{to}"),
                sign if has_register => format!("{register}{to} {sign} {register}{from}"),
                sign => format!("{register}{to} {sign} {value}"),
            }
        }
        (_, 0x05 | 0x06) => {
            let register = if kind == 0x06 { 'w' } else { 'r' };
            let sign = condition(code);
            let right =
                if has_register { format!("{register}{from}") } else { format!("{value:#x}") };
            format!("if {register}{to} {sign} {right} goto pc{offset:+}")
        }
        _ => format!("{word:02x?}"),
    }
}

const fn size(code: u8) -> &'static str {
    match code & 0x18 {
        0x00 => "u32",
        0x08 => "u16",
        0x10 => "u8",
        _ => "u64",
    }
}

const fn operator(code: u8) -> &'static str {
    match code & 0xf0 {
        0x00 => "+=",
        0x10 => "-=",
        0x20 => "*=",
        0x30 => "/=",
        0x40 => "|=",
        0x50 => "&=",
        0x60 => "<<=",
        0x70 => ">>=",
        0x80 => "neg",
        0x90 => "%=",
        0xa0 => "^=",
        _ => "=",
    }
}

const fn condition(code: u8) -> &'static str {
    match code & 0xf0 {
        0x10 => "==",
        0x20 => ">",
        0x30 => ">=",
        0x40 => "&",
        0x50 => "!=",
        0xa0 => "<",
        _ => "<=",
    }
}

const fn helper(number: i32) -> &'static str {
    match number {
        1 => "bpf_map_lookup_elem",
        12 => "bpf_tail_call",
        _ => "helper",
    }
}

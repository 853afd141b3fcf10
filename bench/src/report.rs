//! RESULTS.md as sections, each written by the program that measured it. Never touches another program's section.

use std::{fs, io, path::Path};

use crate::{
    BenchError,
    machine::{Machine, Noise},
};

/// What stands above all sections.
const TITLE: &str = "\
# What linnet costs

Each section is written by the program that it names; do not edit. Figures of one section are of one run.
";

/// Least, median and most; zeros of nothing.
pub(crate) fn spread(figures: &[f64]) -> [f64; 3] {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    [at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1))]
}

/// Puts a program's section in the place of its earlier one, or behind the others.
pub fn write_section(path: &Path, program: &str, text: &str) -> Result<(), BenchError> {
    let old = match fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(BenchError::File { what: "read", path: path.into(), source }),
    };
    fs::write(path, replaced(&old, program, text)).map_err(|source| BenchError::File {
        what: "write",
        path: path.into(),
        source,
    })
}

fn replaced(old: &str, program: &str, text: &str) -> String {
    let (open, close) = (format!("<!-- {program} -->\n"), format!("<!-- end of {program} -->\n"));
    let section = format!("{open}{text}{close}");
    let place = old.find(&open).and_then(|from| {
        let to = old[from..].find(&close)? + from + close.len();
        Some(from..to)
    });
    match place {
        Some(place) => format!("{}{section}{}", &old[..place.start], &old[place.end..]),
        None if old.starts_with(TITLE) => format!("{old}\n{section}"),
        None => format!("{TITLE}\n{section}"),
    }
}

/// Where and when a section's figures were taken, as a list.
#[must_use]
pub fn provenance(machine: &Machine, noise: Noise, command: &str) -> String {
    let Machine { processor, processors, kernel, commit } = machine;
    format!(
        "    {command}\n\n- Commit: {commit}\n- Kernel: Linux {kernel}\n- Processor: {processor}, \
         {processors} online\n- Machine: {}\n",
        told(noise)
    )
}

fn told(noise: Noise) -> String {
    let load = format!("load average {:.2} before, {:.2} after", noise.before, noise.after);
    if noise.is_quiet() {
        format!("quiet ({load})")
    } else {
        format!("other work ran beside the measurement ({load}); trust the minima, not the medians")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_its_earlier_place() {
        let one = replaced("", "a", "first\n");
        let two = replaced(&one, "b", "second\n");
        let three = replaced(&two, "a", "changed\n");
        assert!(three.starts_with(TITLE));
        assert!(!three.contains("first"));
        assert!(three.find("changed").unwrap() < three.find("second").unwrap());
        assert_eq!(replaced(&three, "a", "changed\n"), three);
    }

    #[test]
    fn noise_is_told_to_the_reader() {
        assert!(told(Noise { before: 4.0, after: 3.0 }).contains("trust the minima"));
        assert!(told(Noise { before: 0.1, after: 1.0 }).starts_with("quiet"));
    }
}

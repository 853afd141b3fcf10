//! Diagnoses for people to read: the top of `linnet analyze`'s report. Never more than fit a screen.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use super::{Diagnosis, Value, names::Code};

/// Diagnoses of one code that the report shows.
const SHOWN_MAX: usize = 3;

/// Writes the section, by code; nothing where there is no diagnosis.
pub fn write_report(out: &mut impl Write, diagnoses: &[Diagnosis]) -> io::Result<()> {
    if diagnoses.is_empty() {
        return Ok(());
    }
    let mut by_code: BTreeMap<Code, Vec<&Diagnosis>> = BTreeMap::new();
    for diagnosis in diagnoses {
        by_code.entry(diagnosis.code).or_default().push(diagnosis);
    }
    writeln!(out, "diagnoses:")?;
    for (code, found) in &by_code {
        writeln!(out, "  {}: {}", code.name(), code.advice())?;
        for diagnosis in found.iter().take(SHOWN_MAX) {
            write!(out, "    {}", diagnosis.confidence.name())?;
            if let Some(direction) = diagnosis.direction {
                write!(out, ", from {}", direction.sender())?;
            }
            for (name, value) in &diagnosis.evidence {
                match value {
                    Value::Count(count) => write!(out, ", {name} {count}")?,
                    Value::Number(number) => write!(out, ", {name} {number}")?,
                    Value::Name(text) => write!(out, ", {name} {text}")?,
                }
            }
            writeln!(out, "\n      {}", diagnosis.display_filter)?;
        }
        if found.len() > SHOWN_MAX {
            writeln!(out, "    ... and {} more; --json has all", found.len() - SHOWN_MAX)?;
        }
    }
    writeln!(out)
}

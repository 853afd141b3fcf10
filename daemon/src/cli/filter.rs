//! `linnet filter explain`: how a capture filter reads frames and why, and its program. Asks no daemon.

use captures::{FilterError, View};

use super::{ExitWith, exit, printable, say};
use crate::capture::{CostView, FilterLink, FilterRequest, FilterView, explain_with_cost};

/// Arguments of `linnet filter`.
#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    #[command(subcommand)]
    command: FilterCommand,
}

#[derive(Debug, clap::Subcommand)]
enum FilterCommand {
    /// Say how a filter reads frames and why; show its program as `tcpdump -d` does and as the kernel runs it, and what it
    /// costs there.
    Explain(ExplainArgs),
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// tcpdump's filter language; words are put together with spaces.
    #[arg(required = true, value_name = "EXPRESSION")]
    expression: Vec<String>,
    /// Filter frames as they are on the wire, like tcpdump: not through VLAN tags, not into tunnels.
    #[arg(long)]
    strict: bool,
    /// What frames begin with.
    #[arg(long, value_enum, default_value = "ethernet")]
    link: FilterLink,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Explains a filter.
pub fn run(args: &FilterArgs) -> anyhow::Result<u8> {
    let FilterCommand::Explain(args) = &args.command;
    let request =
        FilterRequest { filter: args.expression.join(" "), strict: args.strict, link: args.link };
    let view = explain_with_cost(&request).map_err(|error| refused(&request.filter, &error))?;
    let text = if args.json { serde_json::to_string(&view)? + "\n" } else { shown(&view) };
    say(&text)?;
    Ok(0)
}

/// The error, and where it is.
fn refused(expression: &str, error: &FilterError) -> ExitWith {
    let code = match error {
        FilterError::LibpcapMissing { .. } => exit::FAILED,
        FilterError::Expression { .. }
        | FilterError::TooLong { .. }
        | FilterError::NulByte
        | FilterError::NotOfTheFrame { .. }
        | FilterError::Program { .. } => exit::USAGE,
    };
    let mut message = error.to_string();
    if let Some(before) = error.position().and_then(|position| expression.get(..position)) {
        let indent = " ".repeat(before.chars().count());
        message = format!("{message}\n  {}\n  {indent}^", printable(expression));
    }
    ExitWith { code, message }
}

fn shown(view: &FilterView) -> String {
    let tags = view.tags.why_not.as_ref().map_or_else(
        || "up to two 802.1Q or 802.1ad tags are looked through".to_owned(),
        |why| format!("not looked through: {why}"),
    );
    let tunnel = view.tunnel.why_not.as_ref().map_or_else(
        || "one is looked into: VXLAN, Geneve, GRE, IP in IP".to_owned(),
        |why| format!("not looked into: {why}"),
    );
    let reach = view.reach_bytes.map_or_else(
        || "depends on the frame".to_owned(),
        |bytes| format!("the first {bytes} bytes of a frame"),
    );
    let mut text = String::new();
    for (name, value) in [
        ("filter", &*printable(&view.filter)),
        ("link", view.link),
        ("treatment", view.treatment),
        ("tags", &tags),
        ("tunnel", &tunnel),
        ("reach", &reach),
    ] {
        text += &format!("{name:<11}{value}\n");
    }
    for program in &view.programs {
        let seen: Vec<_> = program.views.iter().copied().map(described).collect();
        let (instructions, seen) = (program.instructions, seen.join(", or "));
        text += &format!("{:<11}{instructions} instructions, on {seen}\n\n", "program");
        for line in &program.listing {
            text += &format!("{line}\n");
        }
    }
    let kernel = &view.kernel;
    text += &format!("\n{:<11}{} instructions of eBPF, on TC\n\n", "kernel", kernel.instructions);
    for line in &kernel.listing {
        text += &format!("{line}\n");
    }
    text += "\n";
    for cost in kernel.cost.iter().flatten() {
        let CostView { hook, verified, jited_bytes, ns, matches } = cost;
        let matching = if *matches { "which matches" } else { "which does not match" };
        text += &format!(
            "{:<11}{hook}: {ns} ns for TCP data of 1,448 bytes, {matching}; {jited_bytes} bytes of machine code, \
             {verified} instructions verified\n",
            "cost"
        );
    }
    if let Some(why) = &kernel.why_no_cost {
        text += &format!("{:<11}not measured: {why}\n", "cost");
    }
    text
}

const fn described(view: View) -> &'static str {
    match view {
        View::AsItIs => "the frame as it is",
        View::Untagged => "the frame without its tags",
        View::Inner => "what a tunnel carries",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn an_expression_needs_no_quotes_and_options_may_follow() {
        let line = "linnet filter explain tcp port 80 --strict --link raw --json";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Filter(FilterArgs { command: FilterCommand::Explain(args) }) = cli.command
        else {
            panic!("another command");
        };
        assert_eq!(args.expression, ["tcp", "port", "80"]);
        assert!(args.strict && args.json && args.link == FilterLink::RawIp);
        assert!(Cli::try_parse_from(["linnet", "filter", "explain"]).is_err());
    }

    fn explained(filter: &str) -> Option<Result<FilterView, ExitWith>> {
        let request =
            FilterRequest { filter: filter.to_owned(), strict: false, link: FilterLink::Ethernet };
        match explain_with_cost(&request) {
            Err(error @ FilterError::LibpcapMissing { .. }) => {
                println!("skipped: {error}");
                None
            }
            other => Some(other.map_err(|error| refused(filter, &error))),
        }
    }

    #[test]
    fn a_filter_is_told_with_its_rules_and_its_program() {
        let Some(view) = explained("udp port 4789") else { return };
        let text = shown(&view.unwrap());
        for line in [
            "filter     udp port 4789\n",
            "tags       up to two 802.1Q or 802.1ad tags are looked through\n",
            "tunnel     not looked into: `port 4789` looks at the tunnel itself\n",
            "reach      the first 86 bytes of a frame\n",
            "instructions, on the frame without its tags\n\n(000) ldh      [12]\n",
            "instructions of eBPF, on TC\n\n0: (bf) r6 = r1\n",
            "\ncost       ",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_mistake_is_pointed_at() {
        let Some(result) = explained("tcp prot 80") else { return };
        let error = result.unwrap_err();
        assert_eq!(error.code, exit::USAGE);
        assert!(error.message.ends_with("\n  tcp prot 80\n      ^"), "{}", error.message);
    }
}

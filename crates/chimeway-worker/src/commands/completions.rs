//! `chimeway completions`: a script for a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{cli::Cli, error::CliError, output};

/// Print a script that completes commands in a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway completions bash > ~/.local/share/bash-completion/completions/chimeway
  chimeway completions zsh > ~/.zfunc/_chimeway        a folder of your fpath
  chimeway completions fish > ~/.config/fish/completions/chimeway.fish")]
pub(crate) struct Args {
    /// Which shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Offered,
}

/// The shells that are tried in tests.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Offered {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let shell = match args.shell {
        Offered::Bash => Shell::Bash,
        Offered::Zsh => Shell::Zsh,
        Offered::Fish => Shell::Fish,
    };
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "chimeway", &mut script);
    output::print(String::from_utf8_lossy(&script))
}

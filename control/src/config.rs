//! The command line, completed by environment variables and the configuration file.
//!
//! Each option of `podgate run` is set by its flag, else by an environment variable, else in the
//! file of `--config`, else it has its default. The file's options become flags before the command
//! line is parsed, so there is one definition of each option and one check of its value.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, Error, FromArgMatches};
use podgate_api::{ConfigOption, Origin};
use podgate_policy::manifest;
use serde_json::{Map, Value};

use crate::agent::max_endpoints_for;
use crate::cli::{Cli, Command, RunArgs};

const RUN: &str = "run";

/// Parses the command line of this process.
///
/// # Errors
/// When it or the configuration file is invalid; also for `--help`.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Error> {
    let command = command();
    let args: Vec<_> = args.into_iter().collect();
    let file = File::of(&command, &args)?;
    let matches = command.try_get_matches_from(args.into_iter().chain(file.flags.clone()))?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let (Command::Run(run), Some(found)) = (&mut cli.command, matches.subcommand_matches(RUN)) {
        run.options = options(found, &file);
        fit_default_of_max_endpoints(run);
    }
    Ok(cli)
}

/// Lowers the default of `--max-endpoints` to what few `--frames` suffice for.
fn fit_default_of_max_endpoints(run: &mut RunArgs) {
    let name_is = |option: &&mut ConfigOption| option.name == "max-endpoints";
    let Some(option) = run.options.iter_mut().find(name_is) else { return };
    if option.origin == Origin::Default {
        run.max_endpoints = run.max_endpoints.min(max_endpoints_for(run.frames));
        option.value = Some(run.max_endpoints.to_string());
    }
}

/// The command line, where each option of `run` has an environment variable.
fn command() -> clap::Command {
    Cli::command().mut_subcommand(RUN, |run| {
        run.mut_args(|arg| match (arg.get_long(), arg.get_env()) {
            (Some(long), None) => {
                // As long as the program runs, like all names of options.
                let name: &'static str = variable(long).leak();
                arg.env(name).hide_env(true)
            }
            _ => arg,
        })
    })
}

/// The environment variable of an option.
fn variable(long: &str) -> String {
    format!("PODGATE_{}", long.replace('-', "_").to_uppercase())
}

/// The options of the file, as flags.
#[derive(Debug, Default)]
struct File {
    path: PathBuf,
    /// Ids of the arguments that the file sets.
    ids: Vec<String>,
    flags: Vec<OsString>,
}

impl File {
    /// Reads the file that a command line or the environment names, if any. Options that these set
    /// themselves are left out.
    fn of(command: &clap::Command, args: &[OsString]) -> Result<Self, Error> {
        // Wrong command lines are reported later, when they are complete.
        let matches = command.clone().ignore_errors(true).try_get_matches_from(args);
        let matches = matches.as_ref().ok().and_then(|matches| matches.subcommand_matches(RUN));
        let Some((set, path)) =
            matches.and_then(|set| Some((set, set.get_one::<PathBuf>("config")?.clone())))
        else {
            return Ok(Self::default());
        };
        let fail = |why: String| {
            command.clone().error(ErrorKind::ValueValidation, format!("{}: {why}", path.display()))
        };
        let run = command.find_subcommand(RUN).ok_or_else(|| fail("no command run".into()))?;
        let mut file = Self { path: path.clone(), ..Self::default() };
        for (name, value) in read(&path).map_err(fail)? {
            let arg = run.get_arguments().find(|arg| arg.get_long() == Some(&name));
            let Some(arg) = arg.filter(|arg| arg.get_id() != "config") else {
                return Err(fail(format!("there is no option `{name}`")));
            };
            let id = arg.get_id().as_str();
            let form = if arg.get_action().takes_values() { Form::WithValue } else { Form::Switch };
            let flag = flag(&name, &value, form).map_err(fail)?;
            let Some(flag) = flag.filter(|_| !is_set_above(run, set, id)) else { continue };
            check(run, &flag).map_err(fail)?;
            file.flags.push(flag);
            file.ids.push(id.to_owned());
        }
        Ok(file)
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, String> {
    let (bytes, _) = manifest::read_regular(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    match serde_saphyr::from_str(&text).map_err(|error| error.to_string())? {
        Value::Object(options) => Ok(options),
        Value::Null => Ok(Map::new()),
        _ => Err("it is not a map of options and values".to_owned()),
    }
}

/// How an option is written on the command line.
#[derive(Clone, Copy)]
enum Form {
    /// `--name=value`.
    WithValue,
    /// `--name`.
    Switch,
}

/// The flag for an option of the file; `None` if the file has a switch as false.
fn flag(name: &str, value: &Value, form: Form) -> Result<Option<OsString>, String> {
    let value = match (value, form) {
        (Value::Bool(set), Form::Switch) => return Ok(set.then(|| format!("--{name}").into())),
        (Value::String(text), Form::WithValue) => text.clone(),
        (Value::Number(number), Form::WithValue) => number.to_string(),
        (_, Form::WithValue) => return Err(format!("`{name}` needs a text or a number")),
        (_, Form::Switch) => return Err(format!("`{name}` needs true or false")),
    };
    Ok(Some(format!("--{name}={value}").into()))
}

/// Whether a flag or a variable sets this option, or another one that excludes it.
fn is_set_above(run: &clap::Command, set: &ArgMatches, id: &str) -> bool {
    let is_set = |id: &str| {
        let source = set.value_source(id);
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let excluding =
        run.get_groups().cloned().filter_map(|mut group| (!group.is_multiple()).then_some(group));
    let mut groups = excluding.filter(|group| group.get_args().any(|arg| arg.as_str() == id));
    is_set(id) || groups.any(|group| group.get_args().any(|arg| is_set(arg.as_str())))
}

/// Checks a value alone, so that an error names the file.
fn check(run: &clap::Command, flag: &OsString) -> Result<(), String> {
    let parsed = run.clone().try_get_matches_from([&RUN.into(), flag]);
    match parsed.as_ref().map_err(Error::kind) {
        Err(ErrorKind::ValueValidation | ErrorKind::InvalidValue) => {
            let text = parsed.err().map(|error| error.to_string()).unwrap_or_default();
            let line = text.lines().next().unwrap_or_default();
            Err(line.trim_start_matches("error: ").to_owned())
        }
        _ => Ok(()),
    }
}

/// All options, by name.
fn options(matches: &ArgMatches, file: &File) -> Vec<ConfigOption> {
    let command = command();
    let args = command.find_subcommand(RUN).into_iter().flat_map(clap::Command::get_arguments);
    let options = args.filter_map(|arg| {
        let (name, id) = (arg.get_long()?.to_owned(), arg.get_id().as_str());
        let values = matches.get_raw(id).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) if file.ids.iter().any(|of_file| of_file == id) => {
                Origin::File(file.path.clone())
            }
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => {
                let name = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                Origin::Environment(name.unwrap_or_default())
            }
            _ => Origin::Default,
        };
        let value = (!values.is_empty()).then(|| values.join(","));
        Some(ConfigOption { name, value, origin })
    });
    let mut options: Vec<_> = options.collect();
    options.sort_by(|a, b| a.name.cmp(&b.name));
    options
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn run(content: &str, args: &[&str]) -> Result<Vec<ConfigOption>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap();
        let args = [&["podgate", "run", "--config", path], args].concat();
        match parse(args.iter().map(OsString::from)).map_err(|error| error.to_string())?.command {
            Command::Run(run) => Ok(run.options),
            other => panic!("{other:?}"),
        }
    }

    fn option(options: &[ConfigOption], name: &str) -> (Option<String>, Origin) {
        let found = options.iter().find(|option| option.name == name).unwrap();
        let origin = match &found.origin {
            Origin::File(_) => Origin::File("file".into()),
            origin => origin.clone(),
        };
        (found.value.clone(), origin)
    }

    #[test]
    fn a_flag_counts_more_than_the_file_and_the_file_more_than_the_default() {
        let options = run(
            "workers: 2\nmax-endpoints: 250\npod-mtu: keep\nin-cluster: true\n",
            &["--workers", "3"],
        );
        let options = options.unwrap();
        let file = || Origin::File("file".into());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(option(&options, "workers"), (some("3"), Origin::Flag));
        assert_eq!(option(&options, "max-endpoints"), (some("250"), file()));
        assert_eq!(option(&options, "pod-mtu"), (some("keep"), file()));
        assert_eq!(option(&options, "in-cluster").1, file());
        assert_eq!(option(&options, "frames"), (some("16384"), Origin::Default));
        assert_eq!(option(&options, "manifests"), (None, Origin::Default));
    }

    #[test]
    fn the_default_of_max_endpoints_fits_few_frames_and_a_chosen_value_stays() {
        let of = |args: &[&str]| {
            option(&run("manifests: /a\n", args).unwrap(), "max-endpoints").0.unwrap()
        };
        assert_eq!(of(&[]), "250");
        assert_eq!(of(&["--frames", "65536"]), "250");
        assert_eq!(of(&["--frames", "8192"]), "127");
        assert_eq!(of(&["--frames", "1024"]), "15");
        assert_eq!(of(&["--frames", "8192", "--max-endpoints", "250"]), "250");
    }

    #[test]
    fn a_source_of_the_command_line_replaces_the_one_of_the_file() {
        let options = run("kubeconfig: /a\n", &["--manifests", "/b"]).unwrap();
        assert_eq!(option(&options, "manifests"), (Some("/b".to_owned()), Origin::Flag));
        assert_eq!(option(&options, "kubeconfig"), (None, Origin::Default));
    }

    #[test]
    fn a_wrong_file_is_named_with_what_is_wrong() {
        for (content, expected) in [
            ("worker: 2", "there is no option `worker`"),
            ("config: /x", "there is no option `config`"),
            ("workers: 0", "invalid value '0' for '--workers <N>'"),
            ("workers: [1]", "`workers` needs a text or a number"),
            ("in-cluster: 1", "`in-cluster` needs true or false"),
            ("poll: fast", "invalid value 'fast'"),
            ("[workers]", "it is not a map"),
            ("a: [", "config.yaml: "),
        ] {
            let error = run(content, &["--manifests", "/b"]).unwrap_err();
            assert!(error.contains(expected) && error.contains("config.yaml"), "{error}");
        }
        let missing = parse(
            ["podgate", "run", "--config", "/no/such", "--manifests", "/b"].map(OsString::from),
        );
        assert!(missing.unwrap_err().to_string().contains("/no/such"));
    }

    #[test]
    fn only_a_regular_file_of_bounded_size_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, large) = (dir.path().join("fifo"), dir.path().join("large"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::File::create(&large).unwrap().set_len(manifest::FILE_MAX + 1).unwrap();
        for (path, expected) in [
            (large.as_path(), "is larger than"),
            (Path::new("/"), "is a directory, not a regular file"),
            (&fifo, "is a FIFO, not a regular file"),
            (Path::new("/dev/zero"), "is a device, not a regular file"),
        ] {
            let args = ["podgate", "run", "--manifests", "/b", "--config"].map(OsString::from);
            let error = parse(args.into_iter().chain([path.into()])).unwrap_err().to_string();
            assert!(error.contains(&format!("{}: {expected}", path.display())), "{error}");
        }
    }

    #[test]
    fn an_empty_file_sets_nothing_and_a_source_is_still_required() {
        assert!(run("", &["--manifests", "/b"]).is_ok());
        assert!(run("{}", &[]).unwrap_err().contains("--manifests"));
    }

    #[test]
    fn every_option_has_its_own_variable() {
        let command = command();
        let run = command.find_subcommand(RUN).unwrap();
        let names: Vec<_> = run.get_arguments().filter_map(|arg| arg.get_env()).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().any(|name| *name == "PODGATE_MAX_ENDPOINTS"));
    }
}

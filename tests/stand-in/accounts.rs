//! Policies and block devices.

use crate::command::{BlockCommand, PolicyCommand};
use crate::daemon::{Daemon, Next, failure, success};
use crate::info::Policy;
use crate::name::Name;
use crate::policy;
use crate::resources::Resources;
use crate::wire::{Payload, Success};
use std::collections::HashMap;
use std::path::PathBuf;

impl Daemon {
    pub fn policy_command(&self, name: &Name, command: &PolicyCommand) -> Next {
        let mut state = self.state.borrow_mut();
        let next = match command {
            PolicyCommand::Info => {
                let names: Vec<(Name, Policy)> = state
                    .resources
                    .policies
                    .iter()
                    .map(|(path, policy)| (Name::of_path(path), policy.clone()))
                    .collect();
                let entries = names.iter().map(|(name, policy)| (name, policy.clone()));
                let listed = Resources::listed(entries, &Name::of_path(&name.path));
                return Next::End(Payload::Success(Success::Policies(listed)));
            }
            PolicyCommand::Add(policy) if state.resources.policies.get(&name.path) == Some(policy) => {
                return Next::Loop(Payload::success("no modification of policy"));
            }
            PolicyCommand::Add(policy) => {
                if let Err(error) = policy::fits(&state.resources, &name.path, policy) {
                    return failure(error);
                }
                state.resources.policies.insert(name.path.clone(), policy.clone());
                Next::Loop(Payload::success("added policy"))
            }
            PolicyCommand::Remove => match state.resources.policies.remove(&name.path) {
                None => return failure("unknown policy".into()),
                Some(_) => success("removed policy"),
            },
        };
        drop(state);
        self.dump_state();
        next
    }

    pub fn block_command(&self, name: &Name, command: &BlockCommand) -> Next {
        let mut state = self.state.borrow_mut();
        let file = self.block_directory().join(name.to_string());
        match command {
            BlockCommand::Info => {
                let listed = Resources::listed(state.resources.blocks.iter(), name);
                let blocks = listed.into_iter().map(|(name, (size, active))| (name, *size, *active)).collect();
                Next::End(Payload::Success(Success::Blocks(blocks)))
            }
            BlockCommand::Add(_) if state.resources.blocks.contains_key(name) => {
                failure("block device with same name already exists".into())
            }
            BlockCommand::Add(size) => {
                let made = policy::allows_block(&state.resources, name, *size).and_then(|()| {
                    let file = std::fs::File::create(&file).and_then(|file| file.set_len((*size as u64) << 20));
                    file.map_err(|error| error.to_string())
                });
                if let Err(error) = made {
                    return failure(error);
                }
                state.resources.blocks.insert(name.clone(), (*size, false));
                success("added block device")
            }
            BlockCommand::Remove => match state.resources.blocks.get(name) {
                None => failure("remove block: not found".into()),
                Some((_, true)) => failure("remove block: is in use".into()),
                Some((_, false)) => {
                    let _ = std::fs::remove_file(&file);
                    state.resources.blocks.remove(name);
                    success("removed block")
                }
            },
            BlockCommand::Other(..) => failure("contents of block devices are not supported by the stand-in".into()),
        }
    }

    fn block_directory(&self) -> PathBuf {
        self.options.directory.join("block")
    }

    /// Those that are there, none in use.
    pub fn block_devices(&self) -> std::io::Result<HashMap<Name, (i64, bool)>> {
        let mut devices = HashMap::new();
        for entry in std::fs::read_dir(self.block_directory())? {
            let entry = entry?;
            if let Ok(name) = Name::parse(&entry.file_name().to_string_lossy()) {
                devices.insert(name, ((entry.metadata()?.len() >> 20) as i64, false));
            }
        }
        Ok(devices)
    }
}

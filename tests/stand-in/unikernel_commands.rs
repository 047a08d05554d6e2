//! The commands about unikernels.

use crate::command::UnikernelCommand;
use crate::config::{Arguments, Config, Dialect};
use crate::daemon::{After, Daemon, Next, check_devices, failure, success, uncompress, uncompressed};
use crate::name::Name;
use crate::resources::Resources;
use crate::wire::{Payload, Success};
use std::rc::Rc;

impl Daemon {
    pub fn unikernel_command(self: &Rc<Self>, name: &Name, command: &UnikernelCommand) -> Next {
        match command {
            UnikernelCommand::Info(dialect) => self.info(name, *dialect),
            UnikernelCommand::Get(level) => self.get(name, *level),
            UnikernelCommand::Create { force: false, config, .. } => match self.create(name, config.clone(), true) {
                Ok(()) => success("created unikernel"),
                Err(error) => failure(error),
            },
            UnikernelCommand::Create { force: true, config, .. } => self.force_create(name, config),
            UnikernelCommand::Restart(arguments) => {
                self.restart(name, arguments.as_ref().map(|(_, arguments)| arguments))
            }
            UnikernelCommand::Destroy => self.destroy(name),
        }
    }

    fn info(&self, name: &Name, dialect: Dialect) -> Next {
        let (state, misbehaviour) = (self.state.borrow(), self.misbehaviour.borrow());
        let shown = state.resources.unikernels.iter().filter(|(name, _)| !misbehaviour.hidden.contains(*name));
        let infos = shown.map(|(name, unikernel)| (name, state.resources.info(name, unikernel)));
        Next::End(Payload::Success(Success::Infos(dialect, Resources::listed(infos, name))))
    }

    fn get(&self, name: &Name, level: i64) -> Next {
        let state = self.state.borrow();
        let Some(unikernel) = state.resources.unikernels.get(name) else {
            return failure("get: no unikernel found".into());
        };
        let (mut compressed, mut image) = (unikernel.config.compressed, unikernel.config.image.clone());
        if compressed != (level > 0) {
            image = match level {
                0 => uncompress(&image).unwrap_or_default(),
                level => miniz_oxide::deflate::compress_to_vec_zlib(&image, level.clamp(0, 9) as u8),
            };
            compressed = level > 0;
        }
        Next::End(Payload::Success(Success::Image { compressed, image }))
    }

    fn destroy(&self, name: &Name) -> Next {
        let mut state = self.state.borrow_mut();
        let Some(unikernel) = state.resources.unikernels.get(name) else {
            let next = state.stop_create(name);
            drop(state);
            if matches!(next, Next::End(Payload::Success(_))) {
                self.dump_state();
            }
            return next;
        };
        if !self.misbehaviour.borrow().hang_destroy {
            unikernel.terminate();
        }
        Next::AfterExit(state.register(name), After::Destroyed)
    }

    fn force_create(self: &Rc<Self>, name: &Name, config: &Config) -> Next {
        let mut state = self.state.borrow_mut();
        if let Err(error) = state.resources.check(name, &config.arguments, true) {
            return failure(error);
        }
        if let Some(unikernel) = state.resources.unikernels.get(name) {
            unikernel.terminate();
            return Next::AfterExit(state.register(name), After::Create(Box::new((name.clone(), config.clone()))));
        }
        let _ = state.stop_create(name);
        drop(state);
        match self.create(name, config.clone(), true) {
            Ok(()) => success("created unikernel"),
            Err(error) => failure(error),
        }
    }

    fn restart(&self, name: &Name, arguments: Option<&Arguments>) -> Next {
        let mut state = self.state.borrow_mut();
        let Some(unikernel) = state.resources.unikernels.get(name) else { return state.stop_create(name) };
        let mut config = unikernel.config.clone();
        if let Err(error) = state.resources.check(name, &config.arguments, true) {
            return failure(error);
        }
        if let Some(arguments) = arguments {
            // 2.7.2 forgets the memory, the number of cores and the boot partition.
            let Arguments { memory, cpus, boot_partition, .. } = config.arguments;
            config.arguments = Arguments { memory, cpus, boot_partition, ..arguments.clone() };
        }
        if let Err(error) = uncompressed(&config).and_then(|image| check_devices(&image, &config.arguments)) {
            return failure(error);
        }
        unikernel.terminate();
        Next::AfterExit(state.register(name), After::Create(Box::new((name.clone(), config))))
    }
}

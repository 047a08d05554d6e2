//! Another configuration, between two decisions.

use std::sync::Arc;

use super::super::reload::Error;
use super::{Owner, Settings};
use crate::config::Config;
use crate::planning::facts::effective_networks;
use crate::planning::reload::{self, Standing};

impl Owner {
    /// Acts by `config` from now on, with the table as that has it. Where the kernel refuses the table, all is as before.
    pub(super) async fn reconfigure(&mut self, config: Arc<Config>) -> Result<(), Error> {
        let before = self.config.get();
        let networks = effective_networks(&config.networks, self.state.facts.bridges());
        let holds = Standing { networks: &self.state.facts.networks, albatross_path: &before.albatross.path };
        let wanted = Standing { networks: &networks, albatross_path: &config.albatross.path };
        reload::check(holds, wanted, self.state.world.pool())?;
        self.act_by(config);
        if !self.install_table().await {
            self.act_by(before);
            self.install_table().await;
            return Err(Error::Kernel);
        }
        self.note_ports();
        Ok(())
    }

    fn act_by(&mut self, config: Arc<Config>) {
        self.settings = Settings::of(&config);
        let facts = &mut self.state.facts;
        facts.configure(&config.networks);
        facts.default_network = config.default_network.clone();
        self.config.replace(config);
        // For those who wait for a change; the table is installed anyway.
        let _ = self.networks_changed();
    }
}

//! The channels of `dev`: no email leaves the machine, and what the log takes is shown.

use chimeway::{
    channels::{
        Log,
        email::{EmailSettings, Security},
    },
    flow::{ChimewayBuilder, FlowError},
};

use crate::{channels::Adapter, config::Config, error::CliError};

const FROM: &str = "Chimeway <dev@localhost.localdomain>";

/// What is different under `dev`.
pub(crate) struct DevChannels {
    /// The mail server that shows every email.
    pub(crate) port: u16,
}

impl DevChannels {
    /// Replaces those channels.
    pub(crate) fn register(
        &self,
        mut builder: ChimewayBuilder,
        config: &Config,
    ) -> Result<ChimewayBuilder, CliError> {
        let logs = config
            .channels
            .iter()
            .filter(|(_, settings)| settings.adapter == Adapter::Log);
        let logs = logs.map(|(name, _)| name.as_str()).chain(["log"]);
        for name in logs {
            builder = builder
                .channel(name, Log::showing_messages())
                .map_err(FlowError::from)?;
        }
        let mail = config.channels.iter();
        let mail = mail.filter(|(_, settings)| settings.adapter == Adapter::Smtp);
        let mail = mail.map(|(name, _)| name.as_str()).chain(["email"]);
        for name in mail {
            let mut settings = EmailSettings::new("127.0.0.1", FROM);
            settings.port = Some(self.port);
            settings.security = Security::None;
            let channel = settings
                .build()
                .map_err(|error| CliError::Refused(error.to_string()))?;
            builder = builder.channel(name, channel).map_err(FlowError::from)?;
        }
        Ok(builder)
    }
}

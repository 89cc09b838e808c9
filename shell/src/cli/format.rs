//! `verity format` and `verity tenant create`.

use serde_json::json;
use verity::{ClusterConstants, Identity, ReplicaId, TenantId};

use super::args::{FormatArgs, Global, Profile, TenantCreateArgs};
use super::{Failure, Outcome, Output};

pub fn run(args: &FormatArgs, global: &Global, output: &Output) -> Outcome {
    let data = args.data.path()?;
    let mut constants = match args.profile {
        Profile::Default => ClusterConstants::DEFAULT,
        Profile::Compact => ClusterConstants::COMPACT,
    };
    if let Some(bytes) = args.journal {
        constants.journal_ring_bytes = bytes;
    }
    if let Some(bytes) = args.grid_max {
        let pages = bytes / verity_core::limits::PAGE_SIZE as u64;
        constants.grid_pages_max =
            u32::try_from(pages).map_err(|_| Failure::cannot_tell("--grid-max: at most 16 TiB"))?;
    }
    constants.validate().map_err(Failure::cannot_tell)?;
    let (cluster, replica_count) = (args.cluster, args.replica_count);
    let identity = Identity { cluster, replica: ReplicaId::new(args.replica), replica_count };
    let options = global.options().cluster_constants(constants);
    let formatted = options.format_as(&data, identity)?;
    let key_file = formatted.key_file_made.as_ref().map(|path| path.display().to_string());
    output.object(&json!({
        "data": data.display().to_string(),
        "cluster": format!("{:032x}", formatted.cluster.get()),
        "replica": args.replica,
        "replica_count": replica_count,
        "master_key_file_made": key_file,
    }));
    output.line(format!(
        "formatted {}: replica {} of {replica_count}, cluster {:032x}",
        data.display(),
        args.replica,
        formatted.cluster.get(),
    ));
    if let Some(path) = key_file {
        output.note(&key_warning(&path));
    }
    Ok(())
}

/// What everybody must know whose master key was just made for them.
pub fn key_warning(path: &str) -> String {
    format!(
        "note: the master key is in {path}. Without it nothing in the data directory can be read; \
         with it everything can.\nKeep a copy elsewhere, and keep it out of backups of the data."
    )
}

pub fn create_tenant(args: &TenantCreateArgs, global: &Global, output: &Output) -> Outcome {
    let database = global.options().create(false).open(&args.data)?;
    let result = database.create_tenant(TenantId::new(args.tenant));
    let closed = database.close();
    let reply = result?;
    closed?;
    output.object(&json!({
        "tenant": args.tenant,
        "position": reply.position.map(|position| position.get()),
    }));
    output.line(format!("tenant {} created", args.tenant));
    Ok(())
}

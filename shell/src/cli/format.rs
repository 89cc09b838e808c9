//! `verity format`, `verity secret` and `verity tenant create`.

use std::path::Path;

use serde_json::json;
use verity::{ClusterConstants, ClusterSecret, Formatted, Identity, ReplicaId, TenantId, Verity};

use super::args::{FormatArgs, Global, Profile, SecretArgs, TenantCreateArgs};
use super::{Failure, Outcome, Output};

pub fn run(args: &FormatArgs, global: &Global, output: &Output) -> Outcome {
    let data = args.data.path()?;
    let replica = ReplicaId::new(args.replica);
    let (formatted, replica_count, secret_made) = match &args.secret {
        Some(path) => format_replica(args, global, &data, replica, path)?,
        None => {
            let replica_count = args.replica_count.unwrap_or(1);
            let identity = Identity { cluster: args.cluster, replica, replica_count };
            let options = global.options().cluster_constants(constants(args)?);
            (options.format_as(&data, identity)?, replica_count, false)
        }
    };
    let key_file = formatted.key_file_made.as_ref().map(|path| path.display().to_string());
    let secret_file = args.secret.as_ref().filter(|_| secret_made);
    output.object(&json!({
        "data": data.display().to_string(),
        "cluster": format!("{:032x}", formatted.cluster.get()),
        "replica": args.replica,
        "replica_count": replica_count,
        "replaced": args.replace,
        "master_key_file_made": key_file,
        "secret_file_made": secret_file.map(|path| path.display().to_string()),
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
    if args.replace {
        output.note(
            "note: this directory takes the place of a lost one. Start it among the other \
             replicas; until `verity status` no longer says that it is replaced, it counts for \
             nothing. Never start the lost directory again.",
        );
    }
    if let Some(path) = secret_file {
        output.note(&format!(
            "note: what the cluster's replicas share is in {}. Format the others with a copy of \
             it, carry it like a master key, and destroy it then.",
            path.display()
        ));
    }
    Ok(())
}

fn constants(args: &FormatArgs) -> Result<ClusterConstants, Failure> {
    let mut constants = match args.profile.unwrap_or(Profile::Default) {
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
    Ok(constants)
}

/// One of several: what is shared comes from the secret, or goes into it.
fn format_replica(
    args: &FormatArgs,
    global: &Global,
    data: &Path,
    replica: ReplicaId,
    path: &Path,
) -> Result<(Formatted, u8, bool), Failure> {
    let (secret, made) = match ClusterSecret::load(path)? {
        Some(secret) => (secret, false),
        // A new secret would be that of another cluster.
        None if args.replace => {
            return Err(Failure::cannot_tell(format!(
                "there is no secret in {}; `verity secret --out FILE DIR` writes it anew from the \
                 directory of another replica",
                path.display()
            )));
        }
        None => {
            let count = args.replica_count.ok_or_else(|| {
                Failure::cannot_tell(format!(
                    "there is no secret in {}; to make one, say --replica-count",
                    path.display()
                ))
            })?;
            (ClusterSecret::draw(args.cluster, count, constants(args)?)?, true)
        }
    };
    let says_more = args.profile.is_some() || args.journal.is_some() || args.grid_max.is_some();
    let contradicted = args.cluster.is_some_and(|cluster| cluster != secret.cluster)
        || args.replica_count.is_some_and(|count| count != secret.replica_count)
        || (says_more && constants(args)? != secret.constants);
    if contradicted {
        return Err(Failure::cannot_tell(format!(
            "{} is of another cluster, count of replicas or limits than the flags say; leave \
             them out",
            path.display()
        )));
    }
    // Before the format: a secret that is lost is worse than one that is not needed.
    if made {
        secret.save(path)?;
    }
    let options = global.options();
    let formatted = if args.replace {
        options.replace_replica(data, replica, &secret)?
    } else {
        options.format_replica(data, replica, &secret)?
    };
    Ok((formatted, secret.replica_count, made))
}

pub fn secret(args: &SecretArgs, global: &Global, output: &Output) -> Outcome {
    let data = args.data.path()?;
    let secret =
        verity::regain_secret(&data, &global.master_key()).map_err(Failure::cannot_tell)?;
    secret.save(&args.out)?;
    let path = args.out.display().to_string();
    output.object(&json!({
        "data": data.display().to_string(),
        "cluster": format!("{:032x}", secret.cluster.get()),
        "replica_count": secret.replica_count,
        "secret_file_made": path,
    }));
    output.line(format!("wrote what the replicas of cluster {:032x} share", secret.cluster.get()));
    output.note(&format!(
        "note: the keys of tenants 0 and 1 are in {path}, in the clear. Carry it like a master \
         key, and destroy it when the replica is formatted."
    ));
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
    let tenant = TenantId::new(args.tenant);
    let reply = if args.connect.is_empty() {
        let Some(data) = &args.data else { unreachable!("one of both is required") };
        let database = global.options().create(false).open(data)?;
        let result = database.create_tenant(tenant);
        let closed = database.close();
        let reply = result?;
        closed?;
        reply
    } else {
        Verity::connect(&args.connect)?.create_tenant(tenant)?
    };
    output.object(&json!({
        "tenant": args.tenant,
        "position": reply.position.map(|position| position.get()),
    }));
    output.line(format!("tenant {} created", args.tenant));
    Ok(())
}

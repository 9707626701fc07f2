-- The active BBS answers from memory; these tables are what a start loads and what a crash leaves.
-- So there is one index per table, its key: nothing here is searched while serving. Keys compare by
-- byte, as they do in memory.

create table bbs_state (
    only_row boolean primary key default true check (only_row),
    -- Raised by every BBS that becomes active, so that the one before can never write again.
    epoch bigint not null check (epoch >= 0),
    -- Who raised the epoch last. It may raise it again when it does not know whether it did.
    holder uuid,
    -- Of the newest batch.
    revision bigint not null check (revision >= 0)
);

insert into bbs_state (epoch, revision) values (0, 0);

-- Every batch calls this first. It takes the row lock that orders batches, and fails the whole
-- transaction unless the caller is the BBS that became active last and knows the newest revision.
create function bbs_advance(my_epoch bigint, my_revision bigint) returns void language plpgsql as $$
begin
    update bbs_state set revision = my_revision + 1 where epoch = my_epoch and revision = my_revision;
    if not found then
        raise exception 'fenced out: epoch % and revision % are not the newest', my_epoch, my_revision
            using errcode = 'BBF01';
    end if;
end $$;

create table domains (
    name text collate "C" primary key,
    -- Nanoseconds since the Unix epoch; 0 is not fresh, the largest number never ends.
    fresh_until bigint not null,
    default_crash_policy jsonb,
    revision bigint not null
);

create table desired_lrps (
    process_guid text collate "C" primary key,
    domain text not null,
    log_guid text not null,
    instances integer not null check (instances >= 0),
    memory_mb integer not null,
    disk_mb integer not null,
    max_pids integer not null,
    root_fs text not null,
    placement jsonb,
    metric_tags jsonb,
    crash_policy jsonb,
    update_strategy smallint not null check (update_strategy between 0 and 1),
    active_definition_id text not null,
    previous_definition_id text not null,
    -- Routes and annotation, sealed: routes hold keys of ssh.
    client_data bytea,
    tag_epoch text not null,
    tag_index bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    revision bigint not null
) with (fillfactor = 85);

-- The newest definition of which an instance ran. Apart from the header, which is wide: the first
-- start of every LRP writes it.
create table healthy_definitions (
    process_guid text collate "C" primary key,
    definition_id text not null
);

create table lrp_definitions (
    process_guid text collate "C" not null,
    definition_id text collate "C" not null,
    created_at bigint not null,
    definition bytea not null,
    primary key (process_guid, definition_id)
);
-- Sealed values do not compress.
alter table lrp_definitions alter column definition set storage external;

create table actual_lrps (
    process_guid text collate "C" not null,
    instance_index integer not null check (instance_index >= 0),
    -- 0 ordinary, 1 evacuating, 2 suspect
    presence smallint not null check (presence between 0 and 2),
    domain text not null,
    -- 1 unclaimed, 2 claimed, 3 running, 4 crashed
    state smallint not null check (state between 1 and 4),
    instance_guid text not null,
    cell_id text not null,
    zone text not null,
    definition_id text not null,
    -- What the cell reported: net info, internal routes and metric tags, as workload.v1.ActualLRP.
    reported bytea,
    routable boolean not null,
    stop_requested boolean not null,
    crash_count integer not null,
    crash_reason text not null,
    placement_error text not null,
    since bigint not null,
    tag_epoch text not null,
    tag_index bigint not null,
    revision bigint not null,
    primary key (process_guid, instance_index, presence),
    check ((state in (2, 3)) = (cell_id <> '' and instance_guid <> ''))
) with (fillfactor = 70);

create table tasks (
    guid text collate "C" primary key,
    domain text not null,
    -- 1 pending, 2 running, 3 completed, 4 resolving
    state smallint not null check (state between 1 and 4),
    cell_id text not null,
    instance_guid text not null,
    created_at bigint not null,
    updated_at bigint not null,
    first_completed_at bigint not null,
    failed boolean not null,
    failure_reason text not null,
    -- Sealed; null if there is none.
    result bytea,
    rejection_count integer not null,
    rejection_reason text not null,
    memory_mb integer not null,
    disk_mb integer not null,
    max_pids integer not null,
    root_fs text not null,
    placement jsonb,
    definition_digest bytea not null,
    has_callback boolean not null,
    revision bigint not null
) with (fillfactor = 70);

create table task_definitions (
    guid text collate "C" primary key,
    definition bytea not null
);
alter table task_definitions alter column definition set storage external;

-- One row for each batch: its changes and events, sealed. Watchers read the past from it, standbys
-- follow it, and a writer that lost its connection finds out whether its batch happened.
create table batch_log (
    revision bigint primary key,
    id uuid not null unique,
    epoch bigint not null,
    at timestamptz not null,
    events integer not null,
    changes bytea not null
);
alter table batch_log alter column changes set storage external;

-- Rows that could not be read. They stay where they are; this names them.
create table quarantine (
    table_name text not null,
    key text not null,
    problem text not null,
    found_at timestamptz not null,
    primary key (table_name, key)
);

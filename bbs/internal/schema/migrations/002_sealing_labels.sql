-- The labels of the keys that stored values may be sealed under. A BBS enters its active label before
-- it seals anything, and strikes one out when no value that can be read is under it any more. So a
-- take-over sees at once, without reading every value, whether a key that is needed is not configured.
create table if not exists sealing_labels (
    label bytea primary key,
    since timestamptz not null
);

truncate sealing_labels;

-- A sealed value begins with its format, the length of the label, and the label.
insert into sealing_labels (label, since)
select distinct substring(sealed from 3 for get_byte(sealed, 1)), now()
from (
    select substring(definition from 1 for 129) as sealed from lrp_definitions
    union all select substring(definition from 1 for 129) from task_definitions
    union all select substring(client_data from 1 for 129) from desired_lrps
    union all select substring(result from 1 for 129) from tasks
    union all select substring(changes from 1 for 129) from batch_log
) as stored
-- What has no such header is damaged, and for the quarantine to report. The order of conditions in a
-- plain "and" is not fixed, and get_byte fails beyond the end.
where case when octet_length(sealed) > 2 then get_byte(sealed, 0) = 1 and octet_length(sealed) >= 2 + get_byte(sealed, 1) else false end;

-- The first release kept the version of the schema here.
drop table if exists bbs_schema_version;

---- down ----

drop table sealing_labels;

create table if not exists bbs_schema_version (version int4 not null);

truncate bbs_schema_version;

insert into bbs_schema_version (version) values (1);

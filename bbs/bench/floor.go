package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"
)

// The floor is what single statements cost: one row each, over as many connections as there are
// callers, and plain selects of the same rows.
const floorTables = `
create table floor_desired (guid text primary key, domain text, instances int, annotation text, routes bytea, tags bytea, memory int, disk int,
	rootfs text, epoch text, tag_index int, definition bytea);
create table floor_actual (guid text, index int, presence smallint, domain text, state text, instance_guid text, cell_id text, net_info bytea,
	internal_routes bytea, tags bytea, since bigint, epoch text, tag_index int, crash_count int, zone text, routable bool, primary key (guid, index, presence));
create index on floor_actual (cell_id);`

// measureFloor inserts n rows, updates them, and selects them all.
func measureFloor(ctx context.Context, pool *pgxpool.Pool, n int) error {
	if _, err := pool.Exec(ctx, floorTables); err != nil {
		return err
	}
	took, err := each(ctx, n, func(ctx context.Context, i int) error { return insertDesired(ctx, pool, i) })
	if err != nil {
		return err
	}
	row("floor_insert", n, perSecond(n, took), "per_s")
	if err := copyActuals(ctx, pool, n); err != nil {
		return err
	}
	took, err = each(ctx, n, func(ctx context.Context, i int) error {
		m := startRequest(i, maxCells, 0)
		net, err := proto.Marshal(m.GetNetInfo())
		if err != nil {
			return err
		}
		_, err = pool.Exec(ctx, `update floor_actual set state = 'RUNNING', instance_guid = $2, cell_id = $3, net_info = $4, since = $5, tag_index = tag_index + 1
			where guid = $1 and index = 0 and presence = 0`, guid(i), m.GetInstanceKey().GetInstanceGuid(), m.GetInstanceKey().GetCellId(), net, time.Now().UnixNano())
		return err
	})
	if err != nil {
		return err
	}
	row("floor_update", n, perSecond(n, took), "per_s")
	for _, list := range []struct{ name, sql string }{
		{"floor_scheduling_infos", `select guid, domain, instances, annotation, routes, tags, memory, disk, rootfs, epoch, tag_index from floor_desired`},
		{"floor_actual_lrps", `select * from floor_actual`},
	} {
		ms, err := medianOf(5, func() error { return readAll(ctx, pool, list.sql, n) })
		if err != nil {
			return err
		}
		row(list.name, n, ms, "ms")
	}
	cells := min(n, maxCells)
	calls := 20000
	took, err = each(ctx, calls, func(ctx context.Context, i int) error {
		rows, err := pool.Query(ctx, `select * from floor_actual where cell_id = $1`, cellName(i%cells))
		if err != nil {
			return err
		}
		for rows.Next() {
			rows.RawValues()
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	row("floor_actual_lrps_of_cell", n, perSecond(calls, took), "per_s")
	return nil
}

func insertDesired(ctx context.Context, pool *pgxpool.Pool, i int) error {
	m := desiredLRP(i)
	definition, err := proto.Marshal(m.GetDefinition())
	if err != nil {
		return err
	}
	var routes []byte
	for _, value := range m.GetRoutes() {
		routes = append(routes, value...)
	}
	_, err = pool.Exec(ctx, `insert into floor_desired values ($1, $2, 1, $3, $4, $5, 256, 1024, 'preloaded:cflinuxfs4', $6, 0, $7)`,
		m.GetProcessGuid(), m.GetDomain(), m.GetAnnotation(), routes, []byte(fmt.Sprint(m.GetMetricTags())), pseudoUUID("epoch", i), definition)
	return err
}

// copyActuals makes the rows that are to be updated, which is not measured.
func copyActuals(ctx context.Context, pool *pgxpool.Pool, n int) error {
	columns := []string{"guid", "index", "presence", "domain", "state", "instance_guid", "cell_id", "since", "epoch", "tag_index", "crash_count", "zone", "routable", "internal_routes", "tags"}
	_, err := pool.CopyFrom(ctx, pgx.Identifier{"floor_actual"}, columns, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		m := startRequest(i, maxCells, 0)
		return []any{
			guid(i), 0, 0, "cf-apps", "CLAIMED", "", "", time.Now().UnixNano(), pseudoUUID("epoch", i), 0, 0, "z1", true,
			[]byte(fmt.Sprint(m.GetInternalRoutes())), []byte(fmt.Sprint(m.GetMetricTags())),
		}, nil
	}))
	return err
}

func readAll(ctx context.Context, pool *pgxpool.Pool, sql string, want int) error {
	rows, err := pool.Query(ctx, sql)
	if err != nil {
		return err
	}
	defer rows.Close()
	got := 0
	for rows.Next() {
		if _, err := rows.Values(); err != nil {
			return err
		}
		got++
	}
	if rows.Err() == nil && got != want {
		return fmt.Errorf("read %d rows, want %d", got, want)
	}
	return rows.Err()
}

// medianOf returns the median milliseconds of several runs.
func medianOf(runs int, f func() error) (float64, error) {
	times := make([]float64, runs)
	for i := range times {
		started := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		times[i] = milliseconds(time.Since(started))
	}
	slices.Sort(times)
	return times[runs/2], nil
}

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
	rate, err := statements(ctx, pool, n, insertDesired)
	if err != nil {
		return err
	}
	row("floor_insert", n, rate, "per_s")
	if err := copyActuals(ctx, pool, n); err != nil {
		return err
	}
	if rate, err = statements(ctx, pool, n, updateActual); err != nil {
		return err
	}
	row("floor_update", n, rate, "per_s")
	for _, list := range []struct {
		name string
		read func(context.Context, *pgxpool.Pool, int) error
	}{
		{"floor_scheduling_infos", readAll[floorDesired]},
		{"floor_actual_lrps", readAll[floorActual]},
	} {
		ms, err := medianOf(lists, func() error { return list.read(ctx, pool, n) })
		if err != nil {
			return err
		}
		row(list.name, n, ms, "ms")
	}
	return nil
}

// statements runs statement i for 0..n-1 from as many connections as there are callers, and returns how many ended per second.
// Like the requests of a pass they are made beforehand.
func statements(ctx context.Context, pool *pgxpool.Pool, n int, statement func(i int) (sql string, args []any, err error)) (float64, error) {
	var took time.Duration
	for first := 0; first < n; first += block {
		var sql string
		all := [][]any{}
		for i := first; i < min(first+block, n); i++ {
			text, args, err := statement(i)
			if err != nil {
				return 0, err
			}
			sql, all = text, append(all, args)
		}
		spent, err := each(ctx, len(all), func(ctx context.Context, i int) error {
			_, err := pool.Exec(ctx, sql, all[i]...)
			return err
		})
		if err != nil {
			return 0, err
		}
		took += spent
	}
	return perSecond(n, took), nil
}

func insertDesired(i int) (string, []any, error) {
	m := desiredLRP(i)
	definition, err := proto.Marshal(m.GetDefinition())
	var routes []byte
	for _, value := range m.GetRoutes() {
		routes = append(routes, value...)
	}
	return `insert into floor_desired values ($1, $2, 1, $3, $4, $5, 256, 1024, 'preloaded:cflinuxfs4', $6, 0, $7)`, []any{
		m.GetProcessGuid(), m.GetDomain(), m.GetAnnotation(), routes, []byte(fmt.Sprint(m.GetMetricTags())), pseudoUUID("epoch", i), definition,
	}, err
}

func updateActual(i int) (string, []any, error) {
	m := startRequest(i, 0)
	net, err := proto.Marshal(m.GetNetInfo())
	const statement = `update floor_actual set state = 'RUNNING', instance_guid = $2, cell_id = $3, net_info = $4, since = $5, tag_index = tag_index + 1
		where guid = $1 and index = 0 and presence = 0`
	args := []any{guid(i), m.GetInstanceKey().GetInstanceGuid(), m.GetInstanceKey().GetCellId(), net, time.Now().UnixNano()}
	return statement, args, err
}

// copyActuals makes the rows that are to be updated, which is not measured.
func copyActuals(ctx context.Context, pool *pgxpool.Pool, n int) error {
	columns := []string{"guid", "index", "presence", "domain", "state", "instance_guid", "cell_id", "since", "epoch", "tag_index", "crash_count", "zone", "routable", "internal_routes", "tags"}
	_, err := pool.CopyFrom(ctx, pgx.Identifier{"floor_actual"}, columns, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		m := startRequest(i, 0)
		return []any{
			guid(i), 0, 0, "cf-apps", "CLAIMED", "", "", time.Now().UnixNano(), pseudoUUID("epoch", i), 0, 0, "z1", true,
			[]byte(fmt.Sprint(m.GetInternalRoutes())), []byte(fmt.Sprint(m.GetMetricTags())),
		}, nil
	}))
	return err
}

// floorDesired and floorActual are the rows that the lists of the BBS show, and how to select and scan them.
type floorDesired struct {
	guid, domain, annotation, rootfs, epoch string
	instances, memory, disk, tagIndex       int32
	routes, tags                            []byte
}

func (d *floorDesired) sql() string {
	return `select guid, domain, instances, annotation, routes, tags, memory, disk, rootfs, epoch, tag_index from floor_desired`
}

func (d *floorDesired) fields() []any {
	return []any{&d.guid, &d.domain, &d.instances, &d.annotation, &d.routes, &d.tags, &d.memory, &d.disk, &d.rootfs, &d.epoch, &d.tagIndex}
}

type floorActual struct {
	guid, domain, state, instanceGUID, cellID, epoch, zone string
	index, tagIndex, crashCount                            int32
	presence                                               int16
	netInfo, internalRoutes, tags                          []byte
	since                                                  int64
	routable                                               bool
}

func (a *floorActual) sql() string {
	return `select guid, index, presence, domain, state, instance_guid, cell_id, net_info, internal_routes, tags, since, epoch,
		tag_index, crash_count, zone, routable from floor_actual`
}

func (a *floorActual) fields() []any {
	return []any{
		&a.guid, &a.index, &a.presence, &a.domain, &a.state, &a.instanceGUID, &a.cellID, &a.netInfo, &a.internalRoutes, &a.tags, &a.since,
		&a.epoch, &a.tagIndex, &a.crashCount, &a.zone, &a.routable,
	}
}

// readAll selects all rows and keeps them, as a program does that answers with them.
func readAll[T any, P interface {
	*T
	sql() string
	fields() []any
}](ctx context.Context, pool *pgxpool.Pool, want int) error {
	rows, err := pool.Query(ctx, P(new(T)).sql())
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []*T
	for rows.Next() {
		one := new(T)
		if err := rows.Scan(P(one).fields()...); err != nil {
			return err
		}
		all = append(all, one)
	}
	if rows.Err() == nil && len(all) != want {
		return fmt.Errorf("read %d rows, want %d", len(all), want)
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
	return median(times), nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

package store

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/watch"
	"diego.internal/bbs/internal/wire"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// An entry of the log is the content of one batch, before it is sealed: its changed rows, for
// standbys, and its events, for watchers. It is encoded like a protobuf message, by hand, because most
// of it is bytes that are encoded already:
//
//	message Entry {
//	  repeated bytes record = 1;  // encoded records, each before what names it, by position from 1
//	  repeated Row row = 2;
//	  repeated Event event = 3;
//	}
//	message Row {
//	  uint32 table = 1;           // see entryTables
//	  uint32 record = 2;          // 0: the row is gone
//	  string key = 3;             // of a row that is gone: guid or name
//	  uint32 index = 4;           // of an actual LRP that is gone
//	  uint32 presence = 5;
//	  bool stop_requested = 6;    // of an actual LRP
//	  bytes definition_digest = 7; // of a task
//	  bool has_callback = 8;
//	  bytes header = 9;           // of a desired LRP, by an older release: workload.v1.DesiredLRP with secrets
//	  int64 fresh_until = 10;     // of a domain
//	  uint64 revision = 11;       // of a domain
//	  string definition = 12;     // that is healthy
//	  bytes rest = 13;            // of a desired LRP: what of it is not in the record, as workload.v1.DesiredLRP
//	}
//	message Event {
//	  uint32 kind = 1;  uint32 before = 2;  uint32 after = 3;
//	  string subject = 4;  string domain = 5;  repeated string cell = 6;  string trace_id = 7;
//	}
//
// Unknown fields are skipped, so a field may be added.
type entry struct {
	rows   []row
	events []watch.Event
}

// row is one changed row as the log tells it: put is the record, or nil if the row is gone and id or
// name says which.
type row struct {
	table rowTable
	put   any // *actualRow, *lrp.Desired, *task.Task, *lrp.Domain, healthyWrite
	id    actualID
	name  string
}

type rowTable uint8

const (
	rowActual rowTable = iota + 1
	rowDesired
	rowTask
	rowDomain
	// rowHealthy changes one member of a desired LRP; it is never gone.
	rowHealthy
)

var errEntry = errors.New("the log entry is malformed")

// entryEncoder makes entries; it keeps its memory from one to the next.
type entryEncoder struct {
	out []byte
	// body is the row or the event that is being made.
	body message
	rest message // of a desired LRP
	// positions of records by the address of their first byte: a record that is a row and in events
	// is stored once.
	positions map[*byte]uint64
}

// encode returns the entry of a batch, which is valid until the next call.
func (e *entryEncoder) encode(c *changes, events []watch.Event) []byte {
	if cap(e.out) > maxKept {
		e.out, e.positions = nil, nil
	}
	if e.positions == nil {
		e.positions = map[*byte]uint64{}
	}
	e.out = e.out[:0]
	clear(e.positions)
	for _, a := range c.actuals {
		e.row(rowActual, e.record(a.encoded), func(m message) message { return m.flag(6, a.StopRequested) })
	}
	for _, id := range c.actualsGone {
		e.row(rowActual, 0, func(m message) message {
			return m.str(3, id.ProcessGUID).num(4, uint64(id.Index)).num(5, uint64(id.presence)) //nolint:gosec // never negative
		})
	}
	for _, d := range c.desireds {
		e.rest = e.rest[:0].restOfDesired(d)
		e.row(rowDesired, e.record(d.Encoded), func(m message) message { return m.blob(13, e.rest) })
	}
	e.gone(rowDesired, c.desiredsGone)
	for _, t := range c.tasks {
		e.row(rowTask, e.record(encode(wire.Task(t))), func(m message) message {
			return m.str(7, t.DefinitionDigest).flag(8, t.HasCallback)
		})
	}
	for _, h := range c.healthy {
		e.row(rowHealthy, 0, func(m message) message { return m.str(3, h.guid).str(12, h.id) })
	}
	e.gone(rowTask, c.tasksGone)
	for _, d := range c.domains {
		e.row(rowDomain, e.record(encode(wire.Domain(d))), func(m message) message {
			return m.num(10, uint64(d.FreshUntil)).num(11, d.Revision) //nolint:gosec // two's complement
		})
	}
	e.gone(rowDomain, c.domainsGone)
	for i := range events {
		e.event(&events[i])
	}
	return e.out
}

// record writes a record, unless it is there already, and returns its position.
func (e *entryEncoder) record(encoded []byte) uint64 {
	if len(encoded) == 0 {
		return 0
	}
	if position, ok := e.positions[&encoded[0]]; ok {
		return position
	}
	e.out = protowire.AppendBytes(protowire.AppendTag(e.out, 1, protowire.BytesType), encoded)
	position := uint64(len(e.positions)) + 1
	e.positions[&encoded[0]] = position
	return position
}

// row writes a row after its record, which comes before it.
func (e *entryEncoder) row(table rowTable, record uint64, fields func(message) message) {
	e.body = fields(e.body[:0].num(1, uint64(table)).num(2, record))
	e.out = protowire.AppendBytes(protowire.AppendTag(e.out, 2, protowire.BytesType), e.body)
}

func (e *entryEncoder) gone(table rowTable, names []string) {
	for _, name := range names {
		e.row(table, 0, func(m message) message { return m.str(3, name) })
	}
}

func (e *entryEncoder) event(event *watch.Event) {
	m := e.body[:0].num(1, uint64(event.Kind)).num(2, e.record(event.Before)).num(3, e.record(event.After)).
		str(4, event.Subject).str(5, event.Domain)
	for _, cell := range event.Cells {
		m = m.str(6, cell)
	}
	e.body = m.str(7, event.TraceID)
	e.out = protowire.AppendBytes(protowire.AppendTag(e.out, 3, protowire.BytesType), e.body)
}

// message is an encoded message that fields are appended to. What is empty or 0 is left out.
type message []byte

func (m message) num(number protowire.Number, v uint64) message {
	if v == 0 {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, number, protowire.VarintType), v)
}

func (m message) flag(number protowire.Number, v bool) message {
	return m.num(number, protowire.EncodeBool(v))
}

func (m message) str(number protowire.Number, s string) message {
	if s == "" {
		return m
	}
	return protowire.AppendString(protowire.AppendTag(m, number, protowire.BytesType), s)
}

func (m message) blob(number protowire.Number, b []byte) message {
	if len(b) == 0 {
		return m
	}
	return protowire.AppendBytes(protowire.AppendTag(m, number, protowire.BytesType), b)
}

// Fields of workload.v1.DesiredLRP.
const (
	desiredRoutes     = 4
	desiredAnnotation = 5
	desiredHealthy    = 11
	desiredPrevious   = 12
	desiredCreatedAt  = 14
	desiredUpdatedAt  = 15
)

// restOfDesired is what the scheduling info does not tell of a desired LRP, as workload.v1.DesiredLRP.
func (m message) restOfDesired(d *lrp.Desired) message {
	for i := range d.Routes {
		if d.Routes[i].Router == wire.SecretRouter {
			m = m.entry(desiredRoutes, &d.Routes[i])
		}
	}
	return m.str(desiredHealthy, d.HealthyDefinitionID).str(desiredPrevious, d.PreviousDefinitionID).
		moment(desiredCreatedAt, d.CreatedAt).moment(desiredUpdatedAt, d.UpdatedAt)
}

// entry appends an entry of a map of routes.
func (m message) entry(number protowire.Number, route *lrp.Route) message {
	const router, value = 1, 2
	size := protowire.SizeTag(router) + protowire.SizeBytes(len(route.Router)) + protowire.SizeTag(value) + protowire.SizeBytes(len(route.Value))
	m = protowire.AppendVarint(protowire.AppendTag(m, number, protowire.BytesType), uint64(size)) //nolint:gosec // a length
	m = protowire.AppendString(protowire.AppendTag(m, router, protowire.BytesType), route.Router)
	return protowire.AppendBytes(protowire.AppendTag(m, value, protowire.BytesType), route.Value)
}

// moment appends a google.protobuf.Timestamp of nanoseconds since the Unix epoch, unless they are 0.
func (m message) moment(number protowire.Number, ns int64) message {
	return wire.AppendTimestamp(m, number, ns)
}

// decodeEntry is the inverse of encodeEntry, for input of any origin.
func decodeEntry(b []byte) (entry, error) {
	var e entry
	var records [][]byte
	err := eachField(b, func(number protowire.Number, _ uint64, value []byte) error {
		switch number { //nolint:exhaustive // fields of a newer release are skipped
		case 1:
			records = append(records, value)
		case 2:
			r, err := decodeRow(value, records)
			if err != nil {
				return err
			}
			e.rows = append(e.rows, r)
		case 3:
			event, err := decodeEvent(value, records)
			if err != nil {
				return err
			}
			e.events = append(e.events, event)
		}
		return nil
	})
	return e, err
}

// decodeEvents is decodeEntry for those who do not want the rows, which is cheaper.
func decodeEvents(b []byte) ([]watch.Event, error) {
	var events []watch.Event
	var records [][]byte
	err := eachField(b, func(number protowire.Number, _ uint64, value []byte) error {
		switch number { //nolint:exhaustive // fields of a newer release are skipped
		case 1:
			records = append(records, value)
		case 3:
			event, err := decodeEvent(value, records)
			if err != nil {
				return err
			}
			events = append(events, event)
		}
		return nil
	})
	return events, err
}

// eachField calls f with each field of a message: with its number, or with its bytes.
func eachField(b []byte, f func(number protowire.Number, n uint64, value []byte) error) error {
	for len(b) > 0 {
		number, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return fmt.Errorf("%w: %w", errEntry, protowire.ParseError(size))
		}
		b = b[size:]
		var n uint64
		var value []byte
		switch kind {
		case protowire.VarintType:
			n, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(b)
		case protowire.Fixed32Type, protowire.Fixed64Type, protowire.StartGroupType, protowire.EndGroupType:
			size = protowire.ConsumeFieldValue(number, kind, b)
		default:
			size = protowire.ConsumeFieldValue(number, kind, b)
		}
		if size < 0 {
			return fmt.Errorf("%w: %w", errEntry, protowire.ParseError(size))
		}
		b = b[size:]
		if err := f(number, n, value); err != nil {
			return err
		}
	}
	return nil
}

// recordAt returns the record at a position, nil for 0.
func recordAt(records [][]byte, position uint64) ([]byte, error) {
	if position > uint64(len(records)) {
		return nil, fmt.Errorf("%w: no record at %d", errEntry, position)
	}
	if position == 0 {
		return nil, nil
	}
	return records[position-1], nil
}

func decodeEvent(b []byte, records [][]byte) (watch.Event, error) {
	var event watch.Event
	err := eachField(b, func(number protowire.Number, n uint64, value []byte) error {
		var err error
		switch number { //nolint:exhaustive // fields of a newer release are skipped
		case 1:
			if n < uint64(watch.DesiredCreated) || n > uint64(watch.DomainChanged) {
				return fmt.Errorf("%w: kind %d", errEntry, n)
			}
			event.Kind = watch.Kind(n)
		case 2:
			event.Before, err = recordAt(records, n)
		case 3:
			event.After, err = recordAt(records, n)
		case 4:
			event.Subject = string(value)
		case 5:
			event.Domain = string(value)
		case 6:
			event.Cells = append(event.Cells, string(value))
		case 7:
			event.TraceID = string(value)
		}
		return err
	})
	if err == nil && event.Kind == 0 {
		err = fmt.Errorf("%w: an event without kind", errEntry)
	}
	return event, err
}

// rowFields are the fields of a row before they are understood.
type rowFields struct {
	table             uint64
	position          uint64
	record            []byte
	key               string
	index, presence   uint64
	stop, hasCallback bool
	digest, header    []byte
	rest              []byte
	freshUntil        int64
	revision          uint64
	definition        string
}

func decodeRow(b []byte, records [][]byte) (row, error) {
	var f rowFields
	err := eachField(b, func(number protowire.Number, n uint64, value []byte) error {
		switch number { //nolint:exhaustive // fields of a newer release are skipped
		case 1:
			f.table = n
		case 2:
			f.position = n
		case 3:
			f.key = string(value)
		case 4:
			f.index = n
		case 5:
			f.presence = n
		case 6:
			f.stop = n != 0
		case 7:
			f.digest = value
		case 8:
			f.hasCallback = n != 0
		case 9:
			f.header = value
		case 10:
			f.freshUntil = int64(n) //nolint:gosec // two's complement
		case 11:
			f.revision = n
		case 12:
			f.definition = string(value)
		case 13:
			f.rest = value
		}
		return nil
	})
	if err != nil {
		return row{}, err
	}
	if f.record, err = recordAt(records, f.position); err != nil {
		return row{}, err
	}
	switch {
	case f.table == uint64(rowHealthy) && f.key != "":
		return row{table: rowHealthy, put: healthyWrite{guid: f.key, id: f.definition}}, nil
	case f.position == 0:
		return f.gone()
	default:
		return f.put()
	}
}

func (f *rowFields) gone() (row, error) {
	if f.key == "" || f.table == 0 || f.table > uint64(rowDomain) || f.index > math.MaxInt32 || f.presence > uint64(lrp.Suspect) {
		return row{}, fmt.Errorf("%w: a row that is gone has no name", errEntry)
	}
	r := row{table: rowTable(f.table), name: f.key}
	r.id = actualID{Key: lrp.Key{ProcessGUID: f.key, Index: int32(f.index)}, presence: lrp.Presence(f.presence)}
	return r, nil
}

func (f *rowFields) put() (row, error) {
	switch f.table {
	case uint64(rowActual):
		a, err := wire.DecodeActual(f.record)
		if err != nil {
			return row{}, err
		}
		a.StopRequested = f.stop
		return row{table: rowActual, put: packActual(a, bytes.Clone(f.record))}, nil
	case uint64(rowDesired):
		d, err := f.desired()
		return row{table: rowDesired, put: d}, err
	case uint64(rowTask):
		var m workloadv1.Task
		if err := proto.Unmarshal(f.record, &m); err != nil {
			return row{}, fmt.Errorf("%w: %w", errEntry, err)
		}
		t := wire.TaskFrom(&m)
		t.DefinitionDigest, t.HasCallback = string(f.digest), f.hasCallback
		return row{table: rowTask, put: t}, nil
	case uint64(rowDomain):
		var m bbsv1.Domain
		if err := proto.Unmarshal(f.record, &m); err != nil {
			return row{}, fmt.Errorf("%w: %w", errEntry, err)
		}
		return row{table: rowDomain, put: &lrp.Domain{
			Name: m.GetDomain(), FreshUntil: f.freshUntil, Revision: f.revision,
			DefaultCrashPolicy: wire.CrashPolicyFrom(m.GetDefaultCrashRestartPolicy()),
		}}, nil
	}
	return row{}, fmt.Errorf("%w: table %d", errEntry, f.table)
}

func (f *rowFields) desired() (*lrp.Desired, error) {
	var header workloadv1.DesiredLRP
	var info workloadv1.SchedulingInfo
	fields := f.header
	if f.header == nil {
		fields = f.rest
	}
	if err := errors.Join(proto.Unmarshal(fields, &header), proto.Unmarshal(f.record, &info)); err != nil {
		return nil, fmt.Errorf("%w: %w", errEntry, err)
	}
	if f.header == nil {
		completeHeader(&header, &info)
	}
	d := wire.DesiredFrom(&header)
	d.LogGUID = info.GetLogGuid()
	d.Resources = wire.ResourcesFrom(info.GetResources())
	d.Placement = wire.PlacementFrom(info.GetPlacement())
	var err error
	if d.Routes, d.InternalHostnames, err = lrp.ParseRoutes(header.GetRoutes()); err != nil {
		return nil, fmt.Errorf("%w: %w", errEntry, err)
	}
	packDesired(d, bytes.Clone(f.record))
	return d, nil
}

// completeHeader adds to what restOfDesired made what the scheduling info has.
func completeHeader(header *workloadv1.DesiredLRP, info *workloadv1.SchedulingInfo) {
	header.ProcessGuid, header.Domain, header.Annotation = info.GetProcessGuid(), info.GetDomain(), info.GetAnnotation()
	header.Instances, header.MetricTags = info.GetInstances(), info.GetMetricTags()
	header.UpdateStrategy, header.CrashRestartPolicy = info.GetUpdateStrategy(), info.GetCrashRestartPolicy()
	header.ActiveDefinitionId, header.ModificationTag, header.Revision = info.GetActiveDefinitionId(), info.GetModificationTag(), info.GetRevision()
	for router, value := range info.GetRoutes() {
		if header.Routes == nil {
			header.Routes = make(map[string][]byte, len(info.GetRoutes()))
		}
		header.Routes[router] = value
	}
}

// toBatch makes of an entry what the log in memory keeps.
func toBatch(revision uint64, at time.Time, events []watch.Event) *watch.Batch {
	return &watch.Batch{Revision: revision, At: at, Events: events}
}

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
//	  repeated bytes record = 1;  // encoded records; rows and events name them by position, from 1
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
//	  bytes header = 9;           // of a desired LRP: workload.v1.DesiredLRP with secrets
//	  int64 fresh_until = 10;     // of a domain
//	  uint64 revision = 11;       // of a domain
//	  string definition = 12;     // that is healthy
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

// encodeEntry returns the entry of a batch.
func encodeEntry(c *changes, events []watch.Event) ([]byte, error) {
	e := entryEncoder{positions: map[*byte]uint64{}}
	for _, a := range c.actuals {
		e.row(rowActual, field(nil, 2, e.record(a.encoded)), flag(6, a.StopRequested))
	}
	for _, id := range c.actualsGone {
		e.row(rowActual, str(3, id.ProcessGUID), field(nil, 4, uint64(id.Index)), field(nil, 5, uint64(id.presence))) //nolint:gosec // never negative
	}
	for _, d := range c.desireds {
		header, err := proto.Marshal(wire.Desired(d, true))
		if err != nil {
			return nil, fmt.Errorf("encoding desired lrp %q: %w", d.ProcessGUID, err)
		}
		e.row(rowDesired, field(nil, 2, e.record(d.Encoded)), blob(9, header))
	}
	for _, guid := range c.desiredsGone {
		e.row(rowDesired, str(3, guid))
	}
	for _, t := range c.tasks {
		e.row(rowTask, field(nil, 2, e.record(encode(wire.Task(t)))), blob(7, []byte(t.DefinitionDigest)), flag(8, t.HasCallback))
	}
	for _, h := range c.healthy {
		e.row(rowHealthy, str(3, h.guid), str(12, h.id))
	}
	for _, guid := range c.tasksGone {
		e.row(rowTask, str(3, guid))
	}
	for _, d := range c.domains {
		e.row(rowDomain, field(nil, 2, e.record(encode(wire.Domain(d)))), field(nil, 10, uint64(d.FreshUntil)), //nolint:gosec // two's complement
			field(nil, 11, d.Revision))
	}
	for _, name := range c.domainsGone {
		e.row(rowDomain, str(3, name))
	}
	for i := range events {
		e.event(&events[i])
	}
	return append(e.records, e.rest...), nil
}

// entryEncoder gathers records before what names them.
type entryEncoder struct {
	records []byte
	rest    []byte
	count   uint64
	// positions of records by the address of their first byte: a record that is a row and in events
	// is stored once.
	positions map[*byte]uint64
}

func (e *entryEncoder) record(encoded []byte) uint64 {
	if len(encoded) == 0 {
		return 0
	}
	if position, ok := e.positions[&encoded[0]]; ok {
		return position
	}
	e.records = protowire.AppendBytes(protowire.AppendTag(e.records, 1, protowire.BytesType), encoded)
	e.count++
	e.positions[&encoded[0]] = e.count
	return e.count
}

func (e *entryEncoder) row(table rowTable, fields ...[]byte) {
	body := field(nil, 1, uint64(table))
	for _, f := range fields {
		body = append(body, f...)
	}
	e.rest = protowire.AppendBytes(protowire.AppendTag(e.rest, 2, protowire.BytesType), body)
}

func (e *entryEncoder) event(event *watch.Event) {
	body := field(nil, 1, uint64(event.Kind))
	body = field(body, 2, e.record(event.Before))
	body = field(body, 3, e.record(event.After))
	body = append(append(body, str(4, event.Subject)...), str(5, event.Domain)...)
	for _, cell := range event.Cells {
		body = append(body, str(6, cell)...)
	}
	body = append(body, str(7, event.TraceID)...)
	e.rest = protowire.AppendBytes(protowire.AppendTag(e.rest, 3, protowire.BytesType), body)
}

func field(b []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), v)
}

func flag(number protowire.Number, v bool) []byte { return field(nil, number, protowire.EncodeBool(v)) }

func str(number protowire.Number, s string) []byte {
	if s == "" {
		return nil
	}
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), s)
}

func blob(number protowire.Number, b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
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
	if err := errors.Join(proto.Unmarshal(f.header, &header), proto.Unmarshal(f.record, &info)); err != nil {
		return nil, fmt.Errorf("%w: %w", errEntry, err)
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

// toBatch makes of an entry what the log in memory keeps.
func toBatch(revision uint64, at time.Time, events []watch.Event) *watch.Batch {
	return &watch.Batch{Revision: revision, At: at, Events: events}
}

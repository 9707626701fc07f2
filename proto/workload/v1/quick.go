// Package workloadv1 owns the nouns that the contracts share: generated code, and faster decoding of the records of long lists.
package workloadv1

import (
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// This file decodes by hand the few messages that come by the hundred thousand: the generated code goes through reflection for
// maps, and makes an object of each text. What is here makes the same messages, with one object for all the texts of a record and
// one for all of its small messages. Whatever is out of the ordinary (a field that is not known or comes twice, a wrong type, bad
// UTF-8) it refuses, and the caller leaves the message to the generated code, which knows all the rules.

// QuickFields walks over the fields of an encoding. It moves by numbers alone: to move a pointer costs much more while the garbage
// collector runs.
type QuickFields struct {
	encoding  string
	next, end int // what is left to walk over
	from, to  int // the text of the present field
	seen      uint32
	bad       bool

	// Tag of the present field: its number shifted left by three, and its kind, QuickNumber or QuickText.
	Tag uint64
	// Number is the value of the present field if it is one.
	Number uint64
}

// Kinds of fields.
const (
	QuickNumber = 0
	QuickText   = 2
)

// QuickFieldsOf begins a walk. The texts that it finds are parts of encoding.
func QuickFieldsOf(encoding string) QuickFields {
	return QuickFields{encoding: encoding, end: len(encoding)}
}

// Next goes to the next field. It returns false at the end, and if the encoding is not one that is understood here: see Ok.
func (f *QuickFields) Next() bool {
	if f.next >= f.end || f.bad {
		return false
	}
	f.Tag = f.varint()
	switch f.Tag & 7 {
	case QuickNumber:
		f.Number = f.varint()
	case QuickText:
		size := f.varint()
		if f.bad || size > uint64(f.end-f.next) { //nolint:gosec // never negative
			f.bad = true
			return false
		}
		f.from = f.next
		f.next += int(size) //nolint:gosec // checked in the lines before
		f.to = f.next
	default:
		f.bad = true
	}
	return !f.bad
}

func (f *QuickFields) varint() uint64 {
	rest := f.encoding[f.next:f.end]
	if len(rest) > 0 && rest[0] < 0x80 {
		f.next++
		return uint64(rest[0])
	}
	var n uint64
	for i := range min(len(rest), 10) {
		b := rest[i]
		if i == 9 && b > 1 {
			break // more than 64 bits
		}
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			f.next += i + 1
			return n
		}
	}
	f.bad = true
	return 0
}

// text is the present field.
func (f *QuickFields) text() string { return f.encoding[f.from:f.to] }

// within begins a walk over the message in the present field. What it finds wrong, done tells f.
func (f *QuickFields) within() QuickFields {
	return QuickFields{encoding: f.encoding, next: f.from, end: f.to}
}

// inside is within for a field that must not have come before.
func (f *QuickFields) inside() QuickFields {
	f.Once()
	return f.within()
}

func (f *QuickFields) done(in *QuickFields) { f.bad = f.bad || in.bad }

// Ok reports whether the walk found nothing but what is understood.
func (f *QuickFields) Ok() bool { return !f.bad }

// Refuse ends the walk, which is then not Ok.
func (f *QuickFields) Refuse() { f.bad = true }

// Once notes that the present field was seen, which it must not have been before.
func (f *QuickFields) Once() {
	bit := uint32(1) << (f.Tag >> 3 & 31)
	if f.seen&bit != 0 || f.Tag>>3 > 31 {
		f.bad = true
	}
	f.seen |= bit
}

// String takes the present field as a text.
func (f *QuickFields) String(to *string) {
	f.Once()
	*to = f.valid()
}

func (f *QuickFields) valid() string {
	text := f.text()
	if !utf8.ValidString(text) {
		f.bad = true
	}
	return text
}

// Strings takes the present field as one more text of several.
func (f *QuickFields) Strings(to *[]string) { *to = append(*to, f.valid()) }

// Int32 takes the present field as a number; longer ones are cut, as the generated code does.
func (f *QuickFields) Int32(to *int32) {
	f.Once()
	*to = int32(f.Number) //nolint:gosec // see above
}

// Uint32 is like Int32.
func (f *QuickFields) Uint32(to *uint32) {
	f.Once()
	*to = uint32(f.Number) //nolint:gosec // see Int32
}

// Message takes the present field as a message of a kind that is rare.
func (f *QuickFields) Message(to proto.Message) {
	f.Once()
	if proto.Unmarshal([]byte(f.text()), to) != nil {
		f.bad = true
	}
}

// Key takes the present field as a key.
func (f *QuickFields) Key(to *ActualLRPKey) {
	in := f.inside()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&to.ProcessGuid)
		case 2<<3 | QuickNumber:
			in.Int32(&to.Index)
		case 3<<3 | QuickText:
			in.String(&to.Domain)
		default:
			in.Refuse()
		}
	}
	f.done(&in)
}

// InstanceKey takes the present field as the key of an instance.
func (f *QuickFields) InstanceKey(to *ActualLRPInstanceKey) {
	in := f.inside()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&to.InstanceGuid)
		case 2<<3 | QuickText:
			in.String(&to.CellId)
		default:
			in.Refuse()
		}
	}
	f.done(&in)
}

// NetInfo takes the present field as where an instance can be reached.
func (f *QuickFields) NetInfo(to *ActualLRPNetInfo) {
	in := f.inside()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&to.Address)
		case 2<<3 | QuickText:
			to.Ports = append(to.Ports, in.port())
		case 3<<3 | QuickText:
			in.String(&to.InstanceAddress)
		case 4<<3 | QuickText:
			in.String(&to.InstanceIpv6Address)
		case 5<<3 | QuickNumber:
			in.Int32((*int32)(&to.PreferredAddress))
		default:
			in.Refuse()
		}
	}
	f.done(&in)
}

func (f *QuickFields) port() *PortMapping {
	to := &PortMapping{}
	in := f.within()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickNumber:
			in.Uint32(&to.ContainerPort)
		case 2<<3 | QuickNumber:
			in.Uint32(&to.HostPort)
		case 3<<3 | QuickNumber:
			in.Uint32(&to.ContainerTlsProxyPort)
		case 4<<3 | QuickNumber:
			in.Uint32(&to.HostTlsProxyPort)
		default:
			in.Refuse()
		}
	}
	f.done(&in)
	return to
}

func (f *QuickFields) tag(to *ModificationTag) {
	in := f.inside()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&to.Epoch)
		case 2<<3 | QuickNumber:
			in.Uint32(&to.Index)
		default:
			in.Refuse()
		}
	}
	f.done(&in)
}

func (f *QuickFields) timestamp(to *timestamppb.Timestamp) {
	in := f.inside()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickNumber:
			in.Once()
			to.Seconds = int64(in.Number) //nolint:gosec // two's complement is the encoding
		case 2<<3 | QuickNumber:
			in.Int32(&to.Nanos)
		default:
			in.Refuse()
		}
	}
	f.done(&in)
}

// Pair takes the present field as an entry of a map from text to text.
func (f *QuickFields) Pair(to *map[string]string) {
	var key, value string
	in := f.within()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&key)
		case 2<<3 | QuickText:
			in.String(&value)
		default:
			in.Refuse()
		}
	}
	f.done(&in)
	if *to == nil {
		*to = make(map[string]string, pairs)
	}
	(*to)[key] = value
}

// pairs is how many entries the maps of records have, as a rule.
const pairs = 8

// actualLRP is a record with the messages that it holds.
type actualLRP struct {
	lrp         ActualLRP
	key         ActualLRPKey
	instanceKey ActualLRPInstanceKey
	netInfo     ActualLRPNetInfo
	since       timestamppb.Timestamp
	tag         ModificationTag
}

// QuickActualLRP decodes an ActualLRP. It returns nil if that is for the generated code.
func QuickActualLRP(encoding string) *ActualLRP {
	f := QuickFieldsOf(encoding)
	all := &actualLRP{}
	m := &all.lrp
	for f.Next() {
		switch f.Tag {
		case 1<<3 | QuickText:
			m.Key = &all.key
			f.Key(&all.key)
		case 2<<3 | QuickText:
			m.InstanceKey = &all.instanceKey
			f.InstanceKey(&all.instanceKey)
		case 3<<3 | QuickText:
			m.NetInfo = &all.netInfo
			f.NetInfo(&all.netInfo)
		case 4<<3 | QuickNumber:
			f.Int32((*int32)(&m.State))
		case 5<<3 | QuickNumber:
			f.Int32((*int32)(&m.Presence))
		case 6<<3 | QuickNumber:
			f.Int32(&m.CrashCount)
		case 7<<3 | QuickText:
			f.String(&m.CrashReason)
		case 8<<3 | QuickText:
			f.String(&m.PlacementError)
		case 9<<3 | QuickText:
			m.Since = &all.since
			f.timestamp(&all.since)
		case 10<<3 | QuickText:
			f.Strings(&m.InternalRoutes)
		case 11<<3 | QuickText:
			f.Pair(&m.MetricTags)
		case 12<<3 | QuickNumber:
			f.Once()
			m.Routable = f.Number != 0
		case 13<<3 | QuickText:
			f.String(&m.AvailabilityZone)
		case 14<<3 | QuickText:
			f.String(&m.DefinitionId)
		case 15<<3 | QuickText:
			m.ModificationTag = &all.tag
			f.tag(&all.tag)
		case 16<<3 | QuickNumber:
			f.Once()
			m.Revision = f.Number
		default:
			f.Refuse()
		}
	}
	if f.bad {
		return nil
	}
	return m
}

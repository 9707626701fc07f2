// Package bbsv1 owns the contract of the BBS: generated code, and faster decoding of the largest messages.
package bbsv1

import (
	"google.golang.org/protobuf/encoding/protowire"

	workloadv1 "diego.internal/proto/workload/v1"
)

// UnmarshalQuick methods decode the messages that come most, or are largest, as proto.Unmarshal does but several times faster.
// They return false, and leave the message in any state, if an encoding is not of the ordinary form; proto.Unmarshal then has to
// do it. The connections of package grpcclient and grpcserver use them.

// UnmarshalQuick decodes one chunk of a list.
func (x *ListActualLRPsResponse) UnmarshalQuick(encoding []byte) (ok bool) {
	x.ActualLrps, x.Revision, ok = quickList(encoding, workloadv1.QuickActualLRP)
	return ok
}

// UnmarshalQuick decodes one chunk of a list.
func (x *ListSchedulingInfosResponse) UnmarshalQuick(encoding []byte) (ok bool) {
	x.SchedulingInfos, x.Revision, ok = quickList(encoding, workloadv1.QuickSchedulingInfo)
	return ok
}

// UnmarshalQuick decodes one chunk of a list.
func (x *ListRoutingInfosResponse) UnmarshalQuick(encoding []byte) (ok bool) {
	x.RoutingInfos, x.Revision, ok = quickList(encoding, workloadv1.QuickRoutingInfo)
	return ok
}

// quickList decodes a message with records in field 1 and a revision in field 2. Each record gets a copy of its encoding, which
// holds its texts: whoever keeps some records of a list keeps no others.
func quickList[R any](encoding []byte, decode func(string) *R) (all []*R, revision uint64, ok bool) {
	sized := false
	for len(encoding) > 0 {
		field, kind, n := protowire.ConsumeTag(encoding)
		if n < 0 {
			return nil, 0, false
		}
		encoding = encoding[n:]
		switch {
		case field == 1 && kind == protowire.BytesType:
			var record []byte
			if record, n = protowire.ConsumeBytes(encoding); n < 0 {
				return nil, 0, false
			}
			if !sized {
				// The records of a list are about alike.
				all, sized = make([]*R, 0, 1+len(encoding)/n*5/4), true
			}
			one := decode(string(record))
			if one == nil {
				return nil, 0, false
			}
			all = append(all, one)
		case field == 2 && kind == protowire.VarintType:
			if revision, n = protowire.ConsumeVarint(encoding); n < 0 {
				return nil, 0, false
			}
		default:
			return nil, 0, false
		}
		encoding = encoding[n:]
	}
	return all, revision, true
}

// startActualLRP is a request with the messages that it holds.
type startActualLRP struct {
	key         workloadv1.ActualLRPKey
	instanceKey workloadv1.ActualLRPInstanceKey
	netInfo     workloadv1.ActualLRPNetInfo
	routable    bool
}

// UnmarshalQuick decodes the request that cells repeat for each instance as its heartbeat.
func (x *StartActualLRPRequest) UnmarshalQuick(encoding []byte) bool {
	f := workloadv1.QuickFieldsOf(string(encoding))
	all := &startActualLRP{}
	for f.Next() {
		switch f.Tag {
		case 1<<3 | workloadv1.QuickText:
			x.Key = &all.key
			f.Key(&all.key)
		case 2<<3 | workloadv1.QuickText:
			x.InstanceKey = &all.instanceKey
			f.InstanceKey(&all.instanceKey)
		case 3<<3 | workloadv1.QuickText:
			x.NetInfo = &all.netInfo
			f.NetInfo(&all.netInfo)
		case 4<<3 | workloadv1.QuickText:
			f.Strings(&x.InternalRoutes)
		case 5<<3 | workloadv1.QuickText:
			f.Pair(&x.MetricTags)
		case 6<<3 | workloadv1.QuickNumber:
			f.Once()
			all.routable = f.Number != 0
			x.Routable = &all.routable
		case 7<<3 | workloadv1.QuickText:
			f.String(&x.AvailabilityZone)
		case 8<<3 | workloadv1.QuickText:
			f.String(&x.DefinitionId)
		default:
			f.Refuse()
		}
	}
	return f.Ok()
}

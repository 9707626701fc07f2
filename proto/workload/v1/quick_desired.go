package workloadv1

// schedulingInfo is a record with the messages that it holds.
type schedulingInfo struct {
	info      SchedulingInfo
	resources Resources
	placement PlacementConstraint
	tag       ModificationTag
	routes    quickRoutes
	tags      quickTags
}

// QuickSchedulingInfo decodes a SchedulingInfo. It returns nil if that is for the generated code.
func QuickSchedulingInfo(encoding string) *SchedulingInfo {
	f := QuickFieldsOf(encoding)
	all := &schedulingInfo{}
	m := &all.info
	for f.Next() {
		switch f.Tag {
		case 1<<3 | QuickText:
			f.String(&m.ProcessGuid)
		case 2<<3 | QuickText:
			f.String(&m.Domain)
		case 3<<3 | QuickText:
			f.String(&m.LogGuid)
		case 4<<3 | QuickText:
			f.String(&m.Annotation)
		case 5<<3 | QuickNumber:
			f.Int32(&m.Instances)
		case 6<<3 | QuickText:
			m.Resources = &all.resources
			f.resources(&all.resources)
		case 7<<3 | QuickText:
			m.Placement = &all.placement
			f.placement(&all.placement)
		case 8<<3 | QuickText:
			all.routes.take(&f, &m.Routes)
		case 9<<3 | QuickText:
			all.tags.take(&f, &m.MetricTags)
		case 10<<3 | QuickNumber:
			f.Int32((*int32)(&m.UpdateStrategy))
		case 11<<3 | QuickText:
			policy := &CrashRestartPolicy{}
			f.Message(policy)
			m.CrashRestartPolicy = policy
		case 12<<3 | QuickText:
			f.String(&m.ActiveDefinitionId)
		case 13<<3 | QuickText:
			m.ModificationTag = &all.tag
			f.tag(&all.tag)
		case 14<<3 | QuickNumber:
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

// routingInfo is a record with the messages that it holds.
type routingInfo struct {
	info   RoutingInfo
	tag    ModificationTag
	routes quickRoutes
	tags   quickTags
}

// QuickRoutingInfo decodes a RoutingInfo. It returns nil if that is for the generated code.
func QuickRoutingInfo(encoding string) *RoutingInfo {
	f := QuickFieldsOf(encoding)
	all := &routingInfo{}
	m := &all.info
	for f.Next() {
		switch f.Tag {
		case 1<<3 | QuickText:
			f.String(&m.ProcessGuid)
		case 2<<3 | QuickText:
			f.String(&m.Domain)
		case 3<<3 | QuickText:
			f.String(&m.LogGuid)
		case 4<<3 | QuickNumber:
			f.Int32(&m.Instances)
		case 5<<3 | QuickText:
			all.routes.take(&f, &m.Routes)
		case 6<<3 | QuickText:
			all.tags.take(&f, &m.MetricTags)
		case 7<<3 | QuickText:
			m.ModificationTag = &all.tag
			f.tag(&all.tag)
		case 8<<3 | QuickNumber:
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

func (f *QuickFields) resources(to *Resources) {
	in := f.inside()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickNumber:
			in.Int32(&to.MemoryMb)
		case 2<<3 | QuickNumber:
			in.Int32(&to.DiskMb)
		case 3<<3 | QuickNumber:
			in.Int32(&to.MaxPids)
		default:
			in.Refuse()
		}
	}
	f.done(&in)
}

func (f *QuickFields) placement(to *PlacementConstraint) {
	in := f.inside()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&to.RootFs)
		case 2<<3 | QuickText:
			in.Strings(&to.VolumeDrivers)
		case 3<<3 | QuickText:
			in.Strings(&to.PlacementTags)
		case 4<<3 | QuickText:
			constraint := &Constraint{}
			in.Message(constraint)
			to.Constraint = constraint
		default:
			in.Refuse()
		}
	}
	f.done(&in)
}

// quickRoutes makes a map of routes. Their values are bytes, which their owner may change: all are parts of one copy.
type quickRoutes struct{ copied []byte }

func (r *quickRoutes) take(f *QuickFields, to *map[string][]byte) {
	var key, value string
	in := f.within()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&key)
		case 2<<3 | QuickText:
			in.Once()
			value = in.text()
		default:
			in.Refuse()
		}
	}
	f.done(&in)
	if *to == nil {
		*to = make(map[string][]byte, pairs/2)
		r.copied = make([]byte, 0, len(value)+(f.end-f.next)/2)
	}
	if cap(r.copied)-len(r.copied) < len(value) {
		r.copied = make([]byte, 0, len(value))
	}
	start := len(r.copied)
	r.copied = append(r.copied, value...)
	(*to)[key] = r.copied[start:len(r.copied):len(r.copied)]
}

// quickTags makes a map of metric tags, whose values are parts of one object.
type quickTags struct{ free []quickTag }

type quickTag struct {
	value  MetricTagValue
	static MetricTagValue_Static
}

func (t *quickTags) take(f *QuickFields, to *map[string]*MetricTagValue) {
	if len(t.free) == 0 {
		t.free = make([]quickTag, pairs)
	}
	tag := &t.free[0]
	t.free = t.free[1:]
	var key string
	value := false
	in := f.within()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&key)
		case 2<<3 | QuickText:
			value = true
			in.tagValue(tag)
		default:
			in.Refuse()
		}
	}
	f.done(&in)
	if !value {
		f.Refuse()
	}
	if *to == nil {
		*to = make(map[string]*MetricTagValue, pairs)
	}
	(*to)[key] = &tag.value
}

func (f *QuickFields) tagValue(to *quickTag) {
	in := f.inside()
	for in.Next() {
		switch in.Tag {
		case 1<<3 | QuickText:
			in.String(&to.static.Static)
			to.value.Value = &to.static
		case 2<<3 | QuickNumber:
			var dynamic int32
			in.Int32(&dynamic)
			to.value.Value = &MetricTagValue_Dynamic{Dynamic: DynamicTag(dynamic)}
		default:
			in.Refuse()
		}
		if in.next < in.end {
			in.Refuse() // both: the last one counts, and the generated code knows how
		}
	}
	f.done(&in)
}

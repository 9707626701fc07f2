package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/cfdot/internal/output"
	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
)

// consumption is what one container uses.
type consumption struct {
	ProcessGUID   string  `json:"process_guid,omitempty"`
	Index         int32   `json:"index"`
	TaskGUID      string  `json:"task_guid,omitempty"`
	CellID        string  `json:"cell_id"`
	ContainerGUID string  `json:"container_guid"`
	CPUPercent    float64 `json:"cpu_percent"`
	// Entitlement is how much of what it is entitled to it uses, in percent; SpikeStart and SpikeEnd, in nanoseconds, are
	// when it last used more than all of it.
	Entitlement  float64 `json:"cpu_entitlement_percent"`
	SpikeStart   int64   `json:"spike_start,omitempty"`
	SpikeEnd     int64   `json:"spike_end,omitempty"`
	MemoryBytes  uint64  `json:"memory_bytes"`
	MemoryQuota  uint64  `json:"memory_quota_bytes"`
	DiskBytes    uint64  `json:"disk_bytes"`
	DiskQuota    uint64  `json:"disk_quota_bytes"`
	Pids         uint64  `json:"pids"`
	RxBytes      uint64  `json:"rx_bytes"`
	TxBytes      uint64  `json:"tx_bytes"`
	LogRate      uint64  `json:"log_rate_bytes_per_second"`
	LogRateLimit *int64  `json:"log_rate_limit_bytes_per_second,omitempty"` // -1 is none
	LinesDropped uint64  `json:"log_lines_dropped"`
	AgeSeconds   float64 `json:"age_seconds"`
}

// orders by which the biggest consumers come first.
var orders = map[string]func(a, b consumption) int{ //nolint:gochecknoglobals // a constant table
	"cpu":         func(a, b consumption) int { return cmp.Compare(b.CPUPercent, a.CPUPercent) },
	"entitlement": func(a, b consumption) int { return cmp.Compare(b.Entitlement, a.Entitlement) },
	"memory":      func(a, b consumption) int { return cmp.Compare(b.MemoryBytes, a.MemoryBytes) },
	"disk":        func(a, b consumption) int { return cmp.Compare(b.DiskBytes, a.DiskBytes) },
	"logs":        func(a, b consumption) int { return cmp.Compare(b.LogRate, a.LogRate) },
	"dropped":     func(a, b consumption) int { return cmp.Compare(b.LinesDropped, a.LinesDropped) },
	"age":         func(a, b consumption) int { return cmp.Compare(b.AgeSeconds, a.AgeSeconds) },
	"name":        func(consumption, consumption) int { return 0 },
}

const ordersText = "cpu, entitlement, memory, disk, logs, dropped, age or name"

// topOptions are the flags of the command.
type topOptions struct {
	sort     string
	watch    bool
	interval time.Duration
	limit    int
}

func (a *app) top() []*cobra.Command {
	var o topOptions
	command := &cobra.Command{
		Use: "top [PROCESS_GUID]", Short: "Show what instances and tasks use of processor, memory, disk and log",
		Long: `Ask every cell what its containers use, the biggest consumers first. CPU is in percent of one core, since the last look with --watch,
and else, as ENTITLED is always, between the cell's last two samples. ENTITLED is how much of its entitlement to processors it uses:
above 100% it uses what others leave, and "!" says that it does so now. On a terminal --watch shows the newest picture only; in a pipe every look is printed.`,
		Example: "  cfdot top --watch\n  cfdot top my-app --sort memory\n  cfdot top --sort logs --limit 10",
		Args:    atMostOne("PROCESS_GUID"),
	}
	command.Flags().StringVar(&o.sort, "sort", "cpu", "what to order by: "+ordersText)
	command.Flags().BoolVarP(&o.watch, "watch", "w", false, "go on until interrupted")
	command.Flags().DurationVar(&o.interval, "interval", 2*time.Second, "time between two looks, at least 500ms")
	command.Flags().IntVar(&o.limit, "limit", 0, "only so many; 0 is all")
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		switch {
		case orders[o.sort] == nil:
			return usage("--sort must be %s, is %q", ordersText, o.sort)
		case o.interval < 500*time.Millisecond:
			return usage("--interval must be at least 500ms, is %v", o.interval)
		case o.limit < 0:
			return usage("--limit must not be negative, is %d", o.limit)
		}
		process := ""
		if len(args) > 0 {
			process = args[0]
		}
		s := &sampler{app: a, conn: conn, process: process, cells: map[string]*sampledCell{}, last: map[string]*repv1.ContainerMetrics{}}
		defer s.close()
		return a.showTop(ctx, s, o)
	})
	return []*cobra.Command{command}
}

// atMostOne checks an argument that may be left out.
func atMostOne(name string) cobra.PositionalArgs {
	one := exactly(name)
	return func(command *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return one(command, args)
	}
}

// showTop prints one look, or one at each interval.
func (a *app) showTop(ctx context.Context, s *sampler, o topOptions) error {
	for {
		rows, failed, err := s.sample(ctx)
		if err != nil {
			return err
		}
		slices.SortStableFunc(rows, orders[o.sort])
		if o.limit > 0 && len(rows) > o.limit {
			rows = rows[:o.limit]
		}
		if o.watch && a.Terminal && a.flags.format.ForPeople() {
			if _, err := io.WriteString(a.Stdout, "\x1b[H\x1b[2J"); err != nil { // to the top of an empty screen
				return err
			}
		}
		err = printAll(printer(a, topColumns()...), func(show func(consumption) error) error {
			for _, row := range rows {
				if err := show(row); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(failed) > 0 {
			a.complain(errors.Join(failed...))
		}
		if !o.watch {
			if len(failed) > 0 {
				return errPartial
			}
			return nil
		}
		timer := time.NewTimer(o.interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

func topColumns() []output.Column[consumption] {
	return []output.Column[consumption]{
		{Name: "PROCESS OR TASK", Cell: func(c consumption) string { return cmp.Or(c.ProcessGUID, c.TaskGUID) }},
		{Name: "INDEX", Right: true, Cell: func(c consumption) string {
			if c.ProcessGUID == "" {
				return ""
			}
			return strconv.Itoa(int(c.Index))
		}},
		{Name: "CELL", Cell: func(c consumption) string { return c.CellID }},
		{Name: "CPU", Right: true, Cell: func(c consumption) string { return fmt.Sprintf("%.1f%%", c.CPUPercent) }},
		{Name: "ENTITLED", Right: true, Cell: func(c consumption) string {
			mark := ""
			if c.SpikeStart != 0 && c.SpikeEnd == 0 {
				mark = "!"
			}
			return fmt.Sprintf("%.0f%%%s", c.Entitlement, mark)
		}},
		{Name: "MEMORY", Right: true, Cell: func(c consumption) string { return share(c.MemoryBytes, c.MemoryQuota) }},
		{Name: "DISK", Right: true, Cell: func(c consumption) string { return share(c.DiskBytes, c.DiskQuota) }},
		{Name: "LOGS/S", Right: true, Cell: func(c consumption) string { return output.Bytes(c.LogRate) }},
		{Name: "DROPPED", Right: true, Cell: func(c consumption) string { return strconv.FormatUint(c.LinesDropped, 10) }, Mood: droppedMood},
		{Name: "PIDS", Right: true, Cell: func(c consumption) string { return strconv.FormatUint(c.Pids, 10) }},
		{Name: "AGE", Right: true, Cell: func(c consumption) string {
			now := time.Unix(0, 1<<62)
			return output.Age(now.Add(-time.Duration(c.AgeSeconds*float64(time.Second))).UnixNano(), now)
		}},
	}
}

// droppedMood of a count of lines that were lost because there were too many.
func droppedMood(lines string) output.Mood {
	if lines == "0" {
		return output.Plain
	}
	return output.Warning
}

// share of a quota; a quota of 0 is none.
func share(used, quota uint64) string {
	if quota == 0 {
		return output.Bytes(used)
	}
	return fmt.Sprintf("%s of %s", output.Bytes(used), output.Bytes(quota))
}

// sampler looks at all cells again and again, over connections that it keeps.
type sampler struct {
	*app
	conn    grpc.ClientConnInterface
	process string // of whose instances alone; "" means everything
	cells   map[string]*sampledCell
	last    map[string]*repv1.ContainerMetrics // by container guid, of the look before
}

type sampledCell struct {
	address string
	conn    *grpc.ClientConn
}

func (s *sampler) close() {
	for _, cell := range s.cells {
		_ = cell.conn.Close() // nothing is pending
	}
}

// sample returns what all containers use, in the order of their names, and what cells could not be asked.
func (s *sampler) sample(ctx context.Context) (rows []consumption, failed []error, err error) {
	cells, err := presentCells(ctx, s.conn)
	if err != nil {
		return nil, nil, err
	}
	if err := s.connect(cells); err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(cellsAtOnce)
	seen := map[string]*repv1.ContainerMetrics{}
	for id, cell := range s.cells {
		group.Go(func() error {
			answer, err := repv1.NewOperationClient(cell.conn).ContainerMetrics(ctx, &repv1.ContainerMetricsRequest{})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, of(serverRep, fmt.Errorf("Rep error: Failed to get container metrics of cell %s: %w", id, err))) //nolint:staticcheck // the words of the other rep errors
				return nil
			}
			for _, m := range answer.GetContainers() {
				if s.process != "" && m.GetKey().GetProcessGuid() != s.process {
					continue
				}
				seen[m.GetContainerGuid()] = m
				rows = append(rows, s.row(id, m))
			}
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	s.last = seen
	slices.SortFunc(rows, func(x, y consumption) int {
		return cmp.Or(
			cmp.Compare(cmp.Or(x.ProcessGUID, x.TaskGUID), cmp.Or(y.ProcessGUID, y.TaskGUID)),
			cmp.Compare(x.Index, y.Index), cmp.Compare(x.ContainerGUID, y.ContainerGUID))
	})
	return rows, failed, nil
}

// connect opens connections to cells that have come, and closes those to cells that have gone or moved.
func (s *sampler) connect(cells []*bbsv1.Cell) error {
	present := map[string]bool{}
	for _, cell := range cells {
		id, address := cell.GetPresence().GetCellId(), cell.GetPresence().GetRepAddress()
		present[id] = true
		if known := s.cells[id]; known != nil {
			if known.address == address {
				continue
			}
			_ = known.conn.Close() // nothing is pending
		}
		conn, err := s.flags.dialCell(id, address)
		if err != nil {
			return err
		}
		s.cells[id] = &sampledCell{address: address, conn: conn}
	}
	for id, cell := range s.cells {
		if !present[id] {
			_ = cell.conn.Close() // nothing is pending
			delete(s.cells, id)
		}
	}
	return nil
}

// row takes the processor time since the last look of ours, because the cell's own percentage is since anybody's.
func (s *sampler) row(cell string, m *repv1.ContainerMetrics) consumption {
	percent := m.GetCpuPercent()
	if before := s.last[m.GetContainerGuid()]; before != nil {
		if passed := m.GetAge().AsDuration() - before.GetAge().AsDuration(); passed > 0 {
			percent = 100 * float64(m.GetCpuUsage().AsDuration()-before.GetCpuUsage().AsDuration()) / float64(passed)
		}
	}
	return consumption{
		ProcessGUID: m.GetKey().GetProcessGuid(), Index: m.GetKey().GetIndex(), TaskGUID: m.GetTaskGuid(), CellID: cell, ContainerGUID: m.GetContainerGuid(),
		CPUPercent: percent, Entitlement: m.GetCpuEntitlementPercent(), SpikeStart: nanosecondsOf(m.GetSpikeStart()), SpikeEnd: nanosecondsOf(m.GetSpikeEnd()),
		LogRateLimit: m.LogRateLimitBytesPerSecond, LinesDropped: m.GetLogLinesDropped(),
		MemoryBytes: m.GetMemoryBytes(), MemoryQuota: m.GetMemoryQuotaBytes(), DiskBytes: m.GetDiskBytes(), DiskQuota: m.GetDiskQuotaBytes(),
		Pids: m.GetPids(), RxBytes: m.GetRxBytes(), TxBytes: m.GetTxBytes(), LogRate: m.GetLogRateBytesPerSecond(), AgeSeconds: m.GetAge().AsDuration().Seconds(),
	}
}

// nanosecondsOf is 0 for a time that never was.
func nanosecondsOf(at *timestamppb.Timestamp) int64 {
	if at == nil {
		return 0
	}
	return at.AsTime().UnixNano()
}

package command

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	"diego.internal/cfdot/internal/spec"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

// Commands that change what is wanted.

var (
	errExists     = fault.New(codes.AlreadyExists, "ResourceExists", "Desired LRP exists")
	errNoInstance = fault.New(codes.NotFound, "ResourceNotFound", "Actual LRP not found")
)

// indexArgument reads an index that is an argument.
func indexArgument(text string) (int32, error) {
	index, err := strconv.ParseInt(text, 10, 32)
	if err != nil || index < 0 {
		return 0, usage("INDEX must be a number of at least 0, not %q", text)
	}
	return int32(index), nil
}

func (a *app) createDesiredLRP() *cobra.Command {
	var dryRun bool
	command := &cobra.Command{Use: "create-desired-lrp SPEC|@FILE|@-", Short: "Want a new LRP", Args: exactly("SPEC")}
	command.Flags().BoolVar(&dryRun, "dry-run", false, "check the document and that the LRP is new, and send nothing")
	command.RunE = func(c *cobra.Command, args []string) error {
		lrp, err := parse(a, args[0], spec.ParseDesiredLRP)
		if err != nil {
			return err
		}
		return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, _ []string) error {
			if dryRun {
				return a.dryCreate(ctx, conn, lrp)
			}
			_, err := bbsv1.NewDesiredLRPsClient(conn).DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: lrp})
			return err
		})(c, args)
	}
	return command
}

func (a *app) dryCreate(ctx context.Context, conn grpc.ClientConnInterface, lrp *workloadv1.DesiredLRP) error {
	wanted, err := a.wanted(ctx, conn, lrp.GetProcessGuid())
	if err != nil {
		return err
	}
	if wanted != nil {
		return errExists.With("%s is desired already, with %s", lrp.GetProcessGuid(), output.Count(int(wanted.GetInstances()), "instance", "instances"))
	}
	_, err = fmt.Fprintf(a.Stdout, "would desire %s with %s\n", lrp.GetProcessGuid(), output.Count(int(lrp.GetInstances()), "instance", "instances"))
	return err
}

// parse reads a document; what is wrong with it is the user's mistake.
func parse[T any](a *app, arg string, read func([]byte) (T, error)) (T, error) {
	var zero T
	text, err := a.document(arg)
	if err != nil {
		return zero, err
	}
	out, err := read(text)
	if err != nil {
		return zero, usage("The document is not valid:\n%w", err)
	}
	return out, nil
}

func (a *app) updateDesiredLRP() *cobra.Command {
	var dryRun bool
	command := &cobra.Command{
		Use: "update-desired-lrp PROCESS_GUID SPEC|@FILE|@-", Short: "Change instances, routes, annotation, tags or credentials of an LRP",
		Args: exactly("PROCESS_GUID", "SPEC"),
	}
	command.Flags().BoolVar(&dryRun, "dry-run", false, "check the document and say what it would change, and send nothing")
	command.RunE = func(c *cobra.Command, args []string) error {
		update, err := parse(a, args[1], spec.ParseDesiredLRPUpdate)
		if err != nil {
			return err
		}
		return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
			if dryRun {
				return a.dryUpdate(ctx, conn, args[0], update)
			}
			_, err := bbsv1.NewDesiredLRPsClient(conn).UpdateDesiredLRP(ctx, &bbsv1.UpdateDesiredLRPRequest{ProcessGuid: args[0], Update: update})
			return err
		})(c, args)
	}
	return command
}

func (a *app) dryUpdate(ctx context.Context, conn grpc.ClientConnInterface, guid string, update *workloadv1.DesiredLRPUpdate) error {
	wanted, err := a.schedulingInfo(ctx, conn, guid)
	if err != nil {
		return err
	}
	var parts []string
	if update.Instances != nil && update.GetInstances() != wanted.GetInstances() {
		parts = append(parts, fmt.Sprintf("instances %d -> %d", wanted.GetInstances(), update.GetInstances()))
	}
	if update.Annotation != nil && update.GetAnnotation() != wanted.GetAnnotation() {
		parts = append(parts, "annotation")
	}
	for name, set := range map[string]bool{
		"routes": update.GetRoutes() != nil, "metric tags": update.GetMetricTags() != nil, "image credentials": update.GetImageCredentials() != nil,
		"crash restart policy": update.GetCrashRestartPolicyChange() != nil, "definition (rolled out one instance at a time)": update.GetDefinition() != nil,
	} {
		if set {
			parts = append(parts, name)
		}
	}
	if len(parts) == 0 {
		parts = []string{"nothing"}
	}
	slices.Sort(parts)
	_, err = fmt.Fprintf(a.Stdout, "would change of %s: %s\n", guid, strings.Join(parts, ", "))
	return err
}

func (a *app) deleteDesiredLRP() *cobra.Command {
	var s safety
	command := &cobra.Command{Use: "delete-desired-lrp PROCESS_GUID", Short: "Want an LRP no longer; its instances stop", Args: exactly("PROCESS_GUID")}
	s.register(command)
	command.RunE = a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
		stops := "its instances"
		if s.reads(a) {
			wanted, err := a.schedulingInfo(ctx, conn, args[0])
			if err != nil {
				return err
			}
			stops = output.Count(int(wanted.GetInstances()), "instance", "instances")
		}
		if proceed, err := s.allow(a, "delete desired LRP %s and stop %s", args[0], stops); !proceed {
			return err
		}
		_, err := bbsv1.NewDesiredLRPsClient(conn).RemoveDesiredLRP(ctx, &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: args[0]})
		return err
	})
	return command
}

func (a *app) retireActualLRP() *cobra.Command {
	var s safety
	command := &cobra.Command{
		Use: "retire-actual-lrp PROCESS_GUID INDEX", Short: "Stop one instance; another one starts in its place", Args: exactly("PROCESS_GUID", "INDEX"),
	}
	s.register(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		index, err := indexArgument(args[1])
		if err != nil {
			return err
		}
		return a.withBBS(func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error {
			at := ""
			if s.reads(a) {
				if at, err = a.whereabouts(ctx, conn, args[0], index); err != nil {
					return err
				}
			}
			if proceed, err := s.allow(a, "stop instance %d of %s%s", index, args[0], at); !proceed {
				return err
			}
			_, err := bbsv1.NewActualLRPsClient(conn).RetireActualLRP(ctx, &bbsv1.RetireActualLRPRequest{ProcessGuid: args[0], Index: index})
			return err
		})(c, args)
	}
	return command
}

// whereabouts of the ordinary instance of an index, in words.
func (a *app) whereabouts(ctx context.Context, conn grpc.ClientConnInterface, guid string, index int32) (string, error) {
	request := &bbsv1.ListActualLRPsRequest{ProcessGuids: []string{guid}, Index: &index, Presences: []workloadv1.Presence{workloadv1.Presence_PRESENCE_ORDINARY}}
	at := ""
	err := a.eachActual(ctx, conn, request, func(l spec.ActualLRP) error {
		at = ", which is " + l.State
		if l.CellID != "" {
			at += " on " + l.CellID
		}
		return nil
	})
	if err == nil && at == "" {
		err = errNoInstance.With("%s/%d", guid, index)
	}
	return at, err
}

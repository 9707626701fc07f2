package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/deploy/cluster"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

const (
	sampleGUID      = "sample"
	sampleHost      = "sample.diego.local"
	sampleDomain    = "samples"
	sampleInstances = 3
	taskGUID        = "hello"
	taskResult      = "hello from a container"
	sampleTimeout   = time.Minute
)

// sample is the application that shows that everything works.
type sample struct {
	cluster *cluster.Cluster
	conn    *grpc.ClientConn
	cancel  context.CancelFunc
}

func newSample(ctx context.Context, c *cluster.Cluster) (*sample, error) {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := c.DialBBS(ctx, c.Operator())
	if err != nil {
		cancel()
		return nil, err
	}
	return &sample{cluster: c, conn: conn, cancel: cancel}, nil
}

func (s *sample) close() {
	_ = s.conn.Close()
	s.cancel()
}

// push desires the application and the task.
func (s *sample) push(ctx context.Context) error {
	_, err := bbsv1.NewDomainsClient(s.conn).UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: sampleDomain})
	if err != nil {
		return fmt.Errorf("making the domain fresh: %w", err)
	}
	_, err = bbsv1.NewDesiredLRPsClient(s.conn).DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: sampleLRP()})
	if err != nil {
		return fmt.Errorf("desiring the sample application: %w", err)
	}
	_, err = bbsv1.NewTasksClient(s.conn).DesireTask(ctx, &bbsv1.DesireTaskRequest{TaskGuid: taskGUID, Domain: sampleDomain, TaskDefinition: sampleTask()})
	if err != nil {
		return fmt.Errorf("desiring the sample task: %w", err)
	}
	return nil
}

func sampleLRP() *workloadv1.DesiredLRP {
	const port = 8080
	return &workloadv1.DesiredLRP{
		ProcessGuid: sampleGUID, Domain: sampleDomain, Instances: sampleInstances,
		Routes: map[string][]byte{"cf-router": fmt.Appendf(nil, `[{"hostnames":[%q],"port":%d}]`, sampleHost, port)},
		MetricTags: map[string]*workloadv1.MetricTagValue{
			"source_id": {Value: &workloadv1.MetricTagValue_Static{Static: sampleGUID}},
			"app_name":  {Value: &workloadv1.MetricTagValue_Static{Static: "sample"}},
		},
		Definition: &workloadv1.LRPDefinition{
			Container: container(64),
			Action:    &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: "/bin/sample", User: "vcap", LogSource: "APP/PROC/WEB"}}},
			CheckDefinition: &workloadv1.CheckDefinition{Checks: []*workloadv1.Check{{Check: &workloadv1.Check_HttpCheck{
				HttpCheck: &workloadv1.HTTPCheck{Port: port, Path: "/index"},
			}}}},
			StartTimeout: durationpb.New(30 * time.Second),
			Ports:        []uint32{port},
		},
	}
}

func sampleTask() *workloadv1.TaskDefinition {
	script := fmt.Sprintf("echo running; echo -n %q > /tmp/result", taskResult)
	return &workloadv1.TaskDefinition{
		Container:  container(32),
		Action:     &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: "/bin/sh", Args: []string{"-c", script}, User: "vcap"}}},
		ResultFile: "/tmp/result",
	}
}

func container(memoryMB int32) *workloadv1.ContainerSpec {
	return &workloadv1.ContainerSpec{
		RootFs:    "preloaded:busybox",
		Resources: &workloadv1.Resources{MemoryMb: memoryMB, DiskMb: 64, MaxPids: 100},
		CpuWeight: 10,
		Log:       &workloadv1.LogConfig{Guid: sampleGUID, Source: "APP"},
	}
}

// waitTask waits until the task has completed with the right result.
func (s *sample) waitTask(ctx context.Context) error {
	return wait(ctx, "the task", func(ctx context.Context) error {
		answer, err := bbsv1.NewTasksClient(s.conn).GetTask(ctx, &bbsv1.GetTaskRequest{TaskGuid: taskGUID})
		if err != nil {
			return err
		}
		task := answer.GetTask()
		switch {
		case task.GetState() != workloadv1.TaskState_TASK_STATE_COMPLETED:
			return fmt.Errorf("it is in state %v", task.GetState())
		case task.GetFailed():
			return permanent{fmt.Errorf("it failed: %s", task.GetFailureReason())}
		case task.GetResult() != taskResult:
			return permanent{fmt.Errorf("its result is %q, want %q", task.GetResult(), taskResult)}
		default:
			return nil
		}
	})
}

// waitRunning waits until n instances run, on more than one cell if there is more than one.
func (s *sample) waitRunning(ctx context.Context, n int) error {
	return wait(ctx, "the instances", func(ctx context.Context) error {
		stream, err := bbsv1.NewActualLRPsClient(s.conn).ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{
			ProcessGuids: []string{sampleGUID}, States: []workloadv1.ActualLRPState{workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING},
		})
		if err != nil {
			return err
		}
		running, cells := 0, map[string]bool{}
		for {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			for _, lrp := range chunk.GetActualLrps() {
				running++
				cells[lrp.GetInstanceKey().GetCellId()] = true
			}
		}
		if running != n {
			return fmt.Errorf("%d of %d are running", running, n)
		}
		if all := len(s.cluster.CellIDs()); len(cells) < min(all, n) {
			return permanent{fmt.Errorf("they are on %d of %d cells", len(cells), all)}
		}
		return nil
	})
}

// askAll asks through the router until every instance has answered, and returns what they said by index.
func (s *sample) askAll(ctx context.Context, n int) (map[string]string, error) {
	answers := map[string]string{}
	err := wait(ctx, "answers through the router", func(ctx context.Context) error {
		text, err := s.ask(ctx, "/")
		if err != nil {
			return err
		}
		index, _, _ := strings.Cut(strings.TrimPrefix(text, "instance "), " ")
		answers[index] = text
		if len(answers) < n {
			return fmt.Errorf("%d of %d instances have answered", len(answers), n)
		}
		return nil
	})
	return answers, err
}

func (s *sample) ask(ctx context.Context, path string) (string, error) {
	body, _, err := s.get(ctx, path)
	return string(body), err
}

func (s *sample) get(ctx context.Context, path string) ([]byte, http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.cluster.RouterAddress()+path, http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	request.Host = sampleHost
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("the router answered %s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	return body, response.Header, nil
}

// identity asks one instance for its certificate and checks that the authority of instances has given it to it.
func (s *sample) identity(ctx context.Context) (*x509.Certificate, error) {
	text, header, err := s.get(ctx, "/identity")
	if err != nil {
		return nil, fmt.Errorf("asking an instance for its certificate: %w", err)
	}
	authority, err := os.ReadFile(s.cluster.InstanceCA())
	if err != nil {
		return nil, fmt.Errorf("reading the authority of instances: %w", err)
	}
	return verifyIdentity(text, authority, header.Get("Instance-Guid"))
}

// verifyIdentity returns the first certificate of text if it is of the instance and of the authority.
func verifyIdentity(text, authority []byte, guid string) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the certificate of the instance is not PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of the instance: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, fmt.Errorf("verifying the certificate of the instance: %w", err)
	}
	if got := certificate.Subject.CommonName; got != guid {
		return nil, fmt.Errorf("instance %q has the certificate of %q", guid, got)
	}
	return certificate, nil
}

// permanent marks an error that waiting does not mend.
type permanent struct{ error }

func wait(ctx context.Context, what string, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, sampleTimeout, fmt.Errorf("not within %v", sampleTimeout))
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := done(ctx)
		if err == nil {
			return nil
		}
		if _, final := errors.AsType[permanent](err); final {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// environment is what cfdot needs to know of the cluster.
func environment(c *cluster.Cluster) []string {
	operator := c.Operator()
	return []string{
		"BBS_URL=https://" + strings.Join(c.BBSAddresses(), ","),
		"LOCKET_API_LOCATION=" + strings.Join(c.LocketAddresses(), ","),
		"AUCTIONEER_LOCATION=" + strings.Join(c.AuctioneerAddresses(), ","),
		"CA_CERT_FILE=" + operator.CA,
		"CLIENT_CERT_FILE=" + operator.Certificate,
		"CLIENT_KEY_FILE=" + operator.Key,
	}
}

// writeEnvironment writes it as shell commands and returns the file.
func writeEnvironment(c *cluster.Cluster) (string, error) {
	var text strings.Builder
	for _, variable := range environment(c) {
		name, value, _ := strings.Cut(variable, "=")
		fmt.Fprintf(&text, "export %s='%s'\n", name, value)
	}
	fmt.Fprintf(&text, "export PATH='%s':\"$PATH\"\n", c.BinFolder())
	file := filepath.Join(filepath.Dir(c.LogFolder()), "env.sh")
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil { //nolint:gosec // paths, no secrets
		return "", fmt.Errorf("writing the environment of cfdot: %w", err)
	}
	return file, nil
}

// cfdot runs the CLI against the cluster, as an operator would.
func cfdot(ctx context.Context, c *cluster.Cluster, args ...string) error {
	command := exec.CommandContext(ctx, filepath.Join(c.BinFolder(), "cfdot"), args...) //nolint:gosec // our own binary
	command.Env = append(os.Environ(), environment(c)...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("running cfdot %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

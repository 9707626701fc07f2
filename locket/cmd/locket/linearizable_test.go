package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/mtls"
)

// lockState is who has the lock, by the token, which also tells the terms of one holder apart.
type lockState struct {
	token int64
	free  bool
}

// lockModel is a lock with fencing tokens that may expire at any time. It allows a lock to change hands
// whenever it likes, as long as the token grows, but then the former holder must not believe any more
// that it has it: an operation "believed" is legal only while its token is the present one.
func lockModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return lockState{free: true} },
		Step: func(state, input, _ any) (bool, any) {
			s, h := state.(lockState), input.(happening)
			switch h.What {
			case acquired:
				return h.Token > s.token, lockState{token: h.Token}
			case believed:
				return !s.free && h.Token == s.token, s
			default: // a release that comes late frees nothing
				return h.Token <= s.token, lockState{token: s.token, free: s.free || h.Token == s.token}
			}
		},
		DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
	}
}

// The model itself has to refuse what must not happen.
func TestLockModel(t *testing.T) {
	t.Parallel()
	one := []happening{{What: acquired, From: 0, To: 10, Token: 1}, {What: believed, From: 20, To: 21, Token: 1}}
	tests := map[string]struct {
		more []happening
		want porcupine.CheckResult
	}{
		"a holder after the other":               {[]happening{{What: acquired, From: 22, To: 30, Token: 2}, {What: believed, From: 31, To: 32, Token: 2}}, porcupine.Ok},
		"a belief that may have been before":     {[]happening{{What: acquired, From: 22, To: 30, Token: 2}, {What: believed, From: 25, To: 32, Token: 1}}, porcupine.Ok},
		"two believe at once":                    {[]happening{{What: acquired, From: 22, To: 30, Token: 2}, {What: believed, From: 31, To: 32, Token: 1}}, porcupine.Illegal},
		"the token does not grow":                {[]happening{{What: acquired, From: 22, To: 30, Token: 1}}, porcupine.Illegal},
		"a belief after the release":             {[]happening{{What: released, From: 22, To: 30, Token: 1}, {What: believed, From: 31, To: 32, Token: 1}}, porcupine.Illegal},
		"a release that comes late frees nobody": {[]happening{{What: acquired, From: 22, To: 30, Token: 2}, {What: released, From: 31, To: 32, Token: 1}, {What: believed, From: 33, To: 34, Token: 2}}, porcupine.Ok},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			history := append(append([]happening{}, one...), test.more...)
			require.Equal(t, test.want, porcupine.CheckOperationsTimeout(lockModel(), operations(history), time.Minute))
		})
	}
}

func operations(history []happening) []porcupine.Operation {
	var ops []porcupine.Operation
	for i, h := range history {
		ops = append(ops, porcupine.Operation{ClientId: i % 16, Input: h, Call: h.From, Return: h.To})
	}
	return ops
}

// chaos runs contenders against lockets and does things to both.
type chaos struct {
	t      *testing.T
	in     *installation
	random *rand.Rand

	mu         sync.Mutex
	history    []happening
	contenders []*contender
	started    int
}

// contender is a process that contends for the lock.
type contender struct {
	chaos  *chaos
	cmd    *exec.Cmd
	exited <-chan struct{}
	part   []byte // of a line; the last one of a killed contender stays so
}

// Write takes what a contender tells.
func (c *contender) Write(b []byte) (int, error) {
	c.chaos.mu.Lock()
	defer c.chaos.mu.Unlock()
	c.part = append(c.part, b...)
	for {
		line, rest, found := bytes.Cut(c.part, []byte("\n"))
		if !found {
			return len(b), nil
		}
		c.part = rest
		var h happening
		if err := json.Unmarshal(line, &h); err != nil {
			return 0, fmt.Errorf("reading %q: %w", line, err)
		}
		c.chaos.history = append(c.chaos.history, h)
	}
}

const contenders = 3

func (c *chaos) contend() {
	c.t.Helper()
	c.started++
	settings, err := json.Marshal(contention{
		Addresses: c.in.addresses(), TLS: c.in.ca.Issue(mtls.Identity{Role: mtls.RoleBBS}),
		Owner: fmt.Sprintf("bbs-%d", c.started), TTL: 3 * time.Second, Tenure: 2500 * time.Millisecond,
	})
	require.NoError(c.t, err)
	binary, err := os.Executable()
	require.NoError(c.t, err)
	p := &contender{chaos: c, cmd: exec.Command(binary)}
	p.cmd.Env = append(os.Environ(), contenderEnv+"="+string(settings))
	p.cmd.Stdout, p.cmd.Stderr = p, os.Stderr
	p.exited = launch(c.t, p.cmd)
	c.contenders = append(c.contenders, p)
}

// disturb does one bad thing, for some time.
func (c *chaos) disturb() string {
	victim := c.random.IntN(len(c.contenders))
	server := c.random.IntN(len(c.in.lockets))
	pause := time.Duration(500+c.random.IntN(4000)) * time.Millisecond
	switch c.random.IntN(5) {
	case 0:
		c.contenders[victim].stop()
		c.contenders = append(c.contenders[:victim], c.contenders[victim+1:]...)
		c.contend()
		return fmt.Sprintf("killed contender %d", victim)
	case 1: // often longer than its lease
		require.NoError(c.t, c.contenders[victim].cmd.Process.Signal(syscall.SIGSTOP))
		pass(c.t, pause)
		require.NoError(c.t, c.contenders[victim].cmd.Process.Signal(syscall.SIGCONT))
		return fmt.Sprintf("paused contender %d for %v", victim, pause)
	case 2:
		for _, p := range c.contenders { // whoever holds the lock is among them
			require.NoError(c.t, p.cmd.Process.Signal(syscall.SIGSTOP))
		}
		pass(c.t, pause)
		for _, i := range c.random.Perm(len(c.contenders)) {
			require.NoError(c.t, c.contenders[i].cmd.Process.Signal(syscall.SIGCONT))
			pass(c.t, 300*time.Millisecond)
		}
		return fmt.Sprintf("paused all contenders for %v", pause)
	case 3:
		c.in.lockets[server].signal(c.t, syscall.SIGSTOP)
		pass(c.t, pause)
		c.in.lockets[server].signal(c.t, syscall.SIGCONT)
		return fmt.Sprintf("paused locket %d for %v", server, pause)
	default:
		old := c.in.lockets[server]
		old.signal(c.t, syscall.SIGKILL)
		<-old.exited
		pass(c.t, pause/2)
		c.in.lockets[server] = c.in.start(c.t, place{listen: old.grpc})
		return fmt.Sprintf("killed locket %d for %v", server, pause/2)
	}
}

func (c *contender) stop() {
	_ = c.cmd.Process.Kill() // it may have ended
	<-c.exited
}

func TestLocksAreLinearizable(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	c := &chaos{t: t, in: install(t), random: rand.New(rand.NewPCG(seed, seed))}
	t.Cleanup(func() {
		for _, p := range c.contenders {
			p.stop()
		}
	})
	for range contenders {
		c.contend()
	}
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); {
		t.Logf("seed %d: %s", seed, c.disturb())
		pass(t, 200*time.Millisecond)
	}
	for _, p := range c.contenders {
		p.stop()
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[string]int{}
	for _, h := range c.history {
		seen[h.What]++
	}
	t.Logf("checking %d operations: %v", len(c.history), seen)
	require.Greater(t, seen[acquired], 3, "too little happened")
	require.Greater(t, seen[believed], 100, "too little happened")
	require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(lockModel(), operations(c.history), 30*time.Second))
}

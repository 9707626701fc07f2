package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
)

// contenderEnv has the settings of a contender, as JSON.
const contenderEnv = "LOCKET_TEST_CONTENDER"

// contention says how a contender process works.
type contention struct {
	Addresses []string
	TLS       mtls.Config
	Owner     string
	TTL       time.Duration
	// Tenure is after how long a holder steps down by itself.
	Tenure time.Duration
}

// happening is one line of a contender's output: an operation that took effect between From and To, in
// nanoseconds of the monotonic clock of the machine, which all its processes share.
type happening struct {
	What     string // one of the words below
	From, To int64
	Token    int64
}

// What a contender does.
const (
	acquired = "acquired" // To is when Acquire returned
	believed = "believed" // Valid was true
	released = "released" // the lock was given up
)

// contend takes the lock, asks all the time whether it may be trusted, steps down, and begins anew, until
// it is killed. What it knows it writes out before it does anything else.
func contend(settings string) {
	if err := contendForever(settings); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func contendForever(settings string) error {
	var c contention
	if err := json.Unmarshal([]byte(settings), &c); err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	source, err := mtls.Load(c.TLS)
	if err != nil {
		return err
	}
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: c.Addresses}, grpcclient.Options{
		Source: source, Server: mtls.Peer{Role: mtls.RoleLocket}, HealthService: "locket.v1",
	})
	if err != nil {
		return err
	}
	backend := lockclient.NewLocket(conn)
	for {
		if err := c.term(backend); err != nil {
			return err
		}
	}
}

// term is one time of holding the lock.
func (c contention) term(backend lockclient.Backend) error {
	from := now()
	lock, err := lockclient.Acquire(context.Background(), lockclient.LockConfig{
		Key: "bbs", Owner: c.Owner, TTL: c.TTL, Backend: backend, Log: discard,
	})
	if err != nil {
		return err
	}
	if err := tell(happening{What: acquired, From: from, To: now(), Token: lock.Token()}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Tenure)
	defer cancel()
	held := make(chan error, 1)
	stepped := make(chan int64, 1)
	context.AfterFunc(ctx, func() { stepped <- now() })
	go func() { held <- lock.Hold(ctx) }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-held:
			if err != nil {
				return nil // lost: the others may have it, and know nothing of us
			}
			return tell(happening{What: released, From: <-stepped, To: now(), Token: lock.Token()})
		case <-tick.C:
		}
		from := now()
		if !lock.Valid() {
			continue
		}
		if err := tell(happening{What: believed, From: from, To: now(), Token: lock.Token()}); err != nil {
			return err
		}
	}
}

func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // this clock always exists
	}
	return ts.Nano()
}

func tell(h happening) error {
	line, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(line, '\n'))
	return err
}

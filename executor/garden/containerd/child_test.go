package containerd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"diego.internal/executor/garden"
)

// child is the life of the process that TestKilledAnywhere kills: it creates containers until it dies.
func child(folder string) int {
	machine := filepath.Dir(folder)
	cfg := Config{
		Socket:       os.Getenv(childSocket),
		StateFolder:  folder,
		RootFS:       map[string]string{"busybox": filepath.Join(machine, "rootfs")},
		NetworkPool:  netip.MustParsePrefix(os.Getenv(childPool)),
		ExternalIP:   netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		InitBinary:   filepath.Join(machine, "garden-init"),
		LoggerBinary: filepath.Join(machine, "garden-logger"),
		CellID:       os.Getenv(childCell),
		Log:          slog.New(slog.DiscardHandler),
	}
	b, err := New(context.Background(), cfg)
	if err != nil {
		fmt.Println("opening:", err)
		return 1
	}
	fmt.Print("creating")
	for at := range 4 {
		_, err := b.Create(context.Background(), garden.ContainerSpec{
			Handle: fmt.Sprintf("h%d", at), Image: garden.Image{URI: "preloaded:busybox"},
		})
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	select {}
}

package cells

import (
	"testing"

	"diego.internal/locket/lockclient"
)

// FuzzPresence reads what may be registered as the presence of a cell.
func FuzzPresence(f *testing.F) {
	for _, seed := range []string{
		`{"cellId":"a","repAddress":"h:1","capacity":{"memoryMb":1,"diskMb":1,"containers":1}}`, `{"cellId":"a"}`, `{}`, `null`, ``, `[`,
		`{"cellId":"a","repAddress":"h:1","capacity":{"memoryMb":-1,"containers":1}}`, `{"cell_id":"a","unknown":{"x":[1]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		presence, err := parse(lockclient.Held{Claim: lockclient.Claim{Key: "a", Value: value}})
		if err != nil {
			return
		}
		capacity := presence.GetCapacity()
		if presence.GetCellId() != "a" || presence.GetRepAddress() == "" || capacity.GetMemoryMb() <= 0 || capacity.GetContainers() <= 0 || capacity.GetDiskMb() < 0 {
			t.Fatalf("accepted %v", presence)
		}
	})
}

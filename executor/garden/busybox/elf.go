package busybox

import (
	"debug/elf"
	"fmt"
)

// needsInterpreter tells whether a program asks for a dynamic loader.
func needsInterpreter(path string) (bool, error) {
	file, err := elf.Open(path)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	defer func() { _ = file.Close() }()
	for _, header := range file.Progs {
		if header.Type == elf.PT_INTERP {
			return true, nil
		}
	}
	return false, nil
}

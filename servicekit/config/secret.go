package config

import (
	"fmt"
	"os"
	"strings"
)

// SecretFile is the path of a file that holds a secret. The path may be printed and logged; the
// secret is read when it is needed and not kept.
type SecretFile string

// Read returns the content of the file without the line end that editors add.
func (f SecretFile) Read() (string, error) {
	data, err := os.ReadFile(string(f))
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

package config

import (
	"strconv"

	"go.yaml.in/yaml/v3"
)

func index(i int) string { return strconv.Itoa(i) }

// lineOf returns the line of the key at path, or of the nearest section above it that the file has,
// or 0 if the file has none of them.
func lineOf(node *yaml.Node, path []string) int {
	if node.Kind == yaml.DocumentNode && len(node.Content) > 0 {
		node = node.Content[0]
	}
	line := 0
	for _, key := range path {
		next, at := child(node, key)
		if next == nil {
			return line
		}
		node, line = next, at
	}
	return line
}

func child(node *yaml.Node, key string) (value *yaml.Node, line int) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch node.Kind { //nolint:exhaustive // only these have children
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == key {
				return node.Content[i+1], node.Content[i].Line
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i < len(node.Content) {
			return node.Content[i], node.Content[i].Line
		}
	}
	return nil, 0
}

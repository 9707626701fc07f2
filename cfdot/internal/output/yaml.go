package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// printYAML shows the members in the order that they have in JSON.
func (p *Printer[T]) printYAML(record T) error {
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	node, err := yamlNode(decoder)
	if err != nil {
		return fmt.Errorf("reading a record: %w", err)
	}
	var out bytes.Buffer
	if p.printed {
		out.WriteString("---\n")
	}
	p.printed = true
	const indent = 2
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(indent)
	if err := errors.Join(encoder.Encode(node), encoder.Close()); err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	_, err = out.WriteTo(p.out)
	return err
}

// yamlNode reads the next value.
func yamlNode(decoder *json.Decoder) (*yaml.Node, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	scalar := func(tag, value string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}, nil
	}
	switch value := token.(type) {
	case json.Delim:
		node := &yaml.Node{Kind: yaml.MappingNode}
		if value == '[' {
			node.Kind = yaml.SequenceNode
		}
		for decoder.More() { // names and values of an object come in turn
			child, err := yamlNode(decoder)
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, child)
		}
		_, err := decoder.Token() // its end
		return node, err
	case string:
		return scalar("!!str", value)
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: value.String()}, nil
	case bool:
		return scalar("!!bool", fmt.Sprint(value))
	default:
		return scalar("!!null", "null")
	}
}

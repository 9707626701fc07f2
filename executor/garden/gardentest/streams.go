package gardentest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

func pack(s *suite, headers ...tar.Header) io.Reader {
	s.Helper()
	var packed bytes.Buffer
	writer := tar.NewWriter(&packed)
	for _, header := range headers {
		content := []byte("content of " + header.Name)
		if header.Typeflag != tar.TypeReg {
			content = nil
		}
		header.Size = int64(len(content))
		if header.Mode == 0 {
			header.Mode = 0o644
		}
		require.NoError(s, writer.WriteHeader(&header))
		_, err := writer.Write(content)
		require.NoError(s, err)
	}
	require.NoError(s, writer.Close())
	return &packed
}

// unpack returns the regular files of a stream.
func unpack(s *suite, stream io.ReadCloser) map[string]string {
	s.Helper()
	defer func() { require.NoError(s, stream.Close()) }()
	files := map[string]string{}
	for reader := tar.NewReader(stream); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(s, err)
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(reader)
		require.NoError(s, err)
		files[header.Name] = string(content)
	}
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }

func testStreams(s *suite) {
	c := s.create()
	require.NoError(s, c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "/a/b", Tar: pack(s, file("one"), file("c/two"), file(".wh.three"))}))
	require.NoError(s, c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "app", User: "vcap", Tar: pack(s, file("four"))}))

	out := func(spec garden.StreamOutSpec) map[string]string {
		stream, err := c.StreamOut(s.ctx(), spec)
		require.NoError(s, err)
		return unpack(s, stream)
	}
	assert.Equal(s, map[string]string{"one": "content of one"}, out(garden.StreamOutSpec{Path: "/a/b/one"}))
	all := map[string]string{"one": "content of one", "c/two": "content of c/two", ".wh.three": "content of .wh.three"}
	assert.Equal(s, all, out(garden.StreamOutSpec{Path: "/a/b/"}), "with a slash, what is in the folder")
	assert.Equal(s, map[string]string{"c/two": "content of c/two"}, out(garden.StreamOutSpec{Path: "/a/b/c"}), "without, the folder")
	assert.Equal(s, map[string]string{"four": "content of four"}, out(garden.StreamOutSpec{Path: "app/four", User: "vcap"}))
	assert.Equal(s, map[string]string{"four": "content of four"}, out(garden.StreamOutSpec{Path: "/home/vcap/app/four"}))

	_, err := c.StreamOut(s.ctx(), garden.StreamOutSpec{Path: "/no/such/file"})
	require.ErrorIs(s, err, garden.ErrPathNotFound)
	_, err = c.StreamOut(s.ctx(), garden.StreamOutSpec{Path: "/a", User: "nobody-knows"})
	require.ErrorIs(s, err, garden.ErrUnknownUser)
	err = c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "/a", User: "nobody-knows", Tar: pack(s)})
	require.ErrorIs(s, err, garden.ErrUnknownUser)
}

func testStreamEscape(s *suite) {
	c := s.create()
	for _, name := range []string{"../escaped", "a/../../escaped", "../../../../../../../../tmp/escaped"} {
		err := c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "/folder", Tar: pack(s, file(name))})
		require.ErrorIs(s, err, garden.ErrInvalidSpec, name)
	}
	_, err := c.StreamOut(s.ctx(), garden.StreamOutSpec{Path: "/escaped"})
	require.ErrorIs(s, err, garden.ErrPathNotFound)
}

func testStreamOwner(s *suite) {
	c := s.create()
	require.NoError(s, c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "/made/for", User: "vcap", Tar: pack(s,
		tar.Header{Name: "program", Typeflag: tar.TypeReg, Mode: 0o755, Uid: 7, Gid: 7},
		tar.Header{Name: "folder/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 7, Gid: 7},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
	)}))
	out, _ := s.output(c, "cd /made/for; stat -c '%n %U %G %a' /made . program folder; readlink link")
	assert.Equal(s, "/made vcap vcap 755\n. vcap vcap 755\nprogram vcap vcap 755\nfolder vcap vcap 700\n/etc\n", out)

	err := c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "/etc", User: "vcap", Tar: pack(s, file("passwd"))})
	require.Error(s, err, "a user writes where it may write")
	out, _ = s.output(c, "head -n 1 /etc/passwd")
	assert.Contains(s, out, "root")

	err = c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "/made/for", Tar: pack(s, tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 8})})
	require.ErrorIs(s, err, garden.ErrInvalidSpec, "devices are refused")

	// A link that the container made leads to its own files, whatever the machine has there.
	_, status := s.output(c, "ln -s / /made/root; ln -s ../../../../.. /made/up; ln -s /proc/1/root /made/magic; echo inside > /marker")
	require.Zero(s, status.Code)
	_, err = c.StreamOut(s.ctx(), garden.StreamOutSpec{Path: "/made/magic/marker"})
	require.Error(s, err, "a link that is none is not followed")
	for _, path := range []string{"/made/root/marker", "/made/up/marker"} {
		stream, err := c.StreamOut(s.ctx(), garden.StreamOutSpec{Path: path})
		require.NoError(s, err)
		assert.Equal(s, map[string]string{"marker": "inside\n"}, unpack(s, stream))
	}
}

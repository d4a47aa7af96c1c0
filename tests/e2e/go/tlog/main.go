// Command tlog verifies a log with the code that Go's checksum database is verified with.
//
//	tlog DIRECTORY VKEY
//	tlog -receipt FILE ENTRY VKEY
//
// The directory holds `checkpoint` and tiles by their C2SP tlog-tiles paths. Compares every entry with
// the tree, and prints how many there are, of how many the inclusion was proven, and of how many earlier trees the
// consistency.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type tiles struct{ directory string }

func (t tiles) Height() int { return height }

func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range wanted {
		// Go's paths say the height, C2SP's do not.
		path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
		data, err := os.ReadFile(filepath.Join(t.directory, path))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func entries(directory string, tree tlog.Tree) [][]byte {
	var all [][]byte
	for first := int64(0); first < tree.N; first += 1 << height {
		width := 1 << height
		if left := tree.N - first; left < int64(width) {
			width = int(left)
		}
		tile := tlog.Tile{H: height, L: 0, N: first >> height, W: width}
		path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/0/", height), "tile/entries/", 1)
		data, err := os.ReadFile(filepath.Join(directory, path))
		if err != nil {
			log.Fatal(err)
		}
		for len(data) > 0 {
			size := int(binary.BigEndian.Uint16(data))
			all = append(all, data[2:2+size])
			data = data[2+size:]
		}
	}
	return all
}

func main() {
	log.SetFlags(0)
	if os.Args[1] == "-receipt" {
		verifyReceipt(os.Args[2], os.Args[3], os.Args[4])
		return
	}
	directory, vkey := os.Args[1], os.Args[2]
	signed, err := os.ReadFile(filepath.Join(directory, "checkpoint"))
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		log.Fatal(err)
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		log.Fatal(err)
	}
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil {
		log.Fatal(err)
	}
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	hashes := tlog.TileHashReader(tree, tiles{directory})
	all := entries(directory, tree)
	if int64(len(all)) != size {
		log.Fatalf("%d entries, not %d", len(all), size)
	}
	for first := 0; first < len(all); first += 1 << height {
		checkLeaves(hashes, first, all[first:min(len(all), first+1<<height)])
	}
	proven, trees := 0, 0
	for number, entry := range all {
		if !sampled(int64(number), size) {
			continue
		}
		proof, err := tlog.ProveRecord(size, int64(number), hashes)
		if err != nil {
			log.Fatal(err)
		}
		if err := tlog.CheckRecord(proof, size, tree.Hash, int64(number), tlog.RecordHash(entry)); err != nil {
			log.Fatalf("entry %d: %v", number, err)
		}
		proven++
	}
	for old := int64(1); old <= size; old++ {
		if !sampled(old, size) {
			continue
		}
		earlier, err := tlog.TreeHash(old, hashes)
		if err != nil {
			log.Fatal(err)
		}
		proof, err := tlog.ProveTree(size, old, hashes)
		if err != nil {
			log.Fatal(err)
		}
		if err := tlog.CheckTree(proof, size, tree.Hash, old, earlier); err != nil {
			log.Fatalf("tree of %d: %v", old, err)
		}
		trees++
	}
	fmt.Printf("%s: %d entries, %d proven, %d trees\n", lines[0], len(all), proven, trees)
}

// sampled tells which proofs to check: some everywhere, and all near the edge of the tree.
func sampled(number, size int64) bool { return number%97 == 0 || number > size-300 }

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func checkLeaves(hashes tlog.HashReader, first int, entries [][]byte) {
	var indexes []int64
	for number := range entries {
		indexes = append(indexes, tlog.StoredHashIndex(0, int64(first+number)))
	}
	found, err := hashes.ReadHashes(indexes)
	if err != nil {
		log.Fatal(err)
	}
	for number, entry := range entries {
		if found[number] != tlog.RecordHash(entry) {
			log.Fatalf("entry %d is not the one of the tree", first+number)
		}
	}
}

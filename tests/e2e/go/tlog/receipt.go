package main

import (
	"encoding/base64"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// verifyReceipt checks a C2SP tlog-proof file: that an entry is in the tree of the checkpoint in it, which the log signed.
func verifyReceipt(receiptFile, entryFile, vkey string) {
	receipt, err := os.ReadFile(receiptFile)
	if err != nil {
		log.Fatal(err)
	}
	entry, err := os.ReadFile(entryFile)
	if err != nil {
		log.Fatal(err)
	}
	head, checkpoint, found := strings.Cut(string(receipt), "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		log.Fatal("not a tlog-proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	var proof tlog.RecordProof
	for _, line := range lines[2:] {
		proof = append(proof, hashOf(line))
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		log.Fatal(err)
	}
	opened, err := note.Open([]byte(checkpoint), note.VerifierList(verifier))
	if err != nil {
		log.Fatal(err)
	}
	signed := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(signed[1], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	if err := tlog.CheckRecord(proof, size, hashOf(signed[2]), index, tlog.RecordHash(entry)); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: entry %d of %d\n", signed[0], index, size)
}

func hashOf(text string) tlog.Hash {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(data) != tlog.HashSize {
		log.Fatalf("%q is no hash", text)
	}
	var hash tlog.Hash
	copy(hash[:], data)
	return hash
}

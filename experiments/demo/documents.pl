#!/usr/bin/perl
# Turns the formats of Debian's text packages into documents of plain text.
#
#   documents.pl bible|gcide            text on stdin
#   documents.pl files|html|pod|fortunes    file names on stdin
#   documents.pl pack BYTES             the last stage: documents on stdin
#
# Between the stages documents are parted by the byte 0x1e (record separator). "pack" spreads them
# by a fixed stride, so that any stretch of the result is a mixed sample, stops at BYTES, and parts
# them by lines "<|endoftext|>".
use strict;
use warnings;

binmode STDIN;
binmode STDOUT;
my $kind = shift @ARGV // '';

sub slurp {
  my ($path) = @_;
  open my $file, '<:raw', $path or die "$path: $!\n";
  local $/;
  return scalar <$file>;
}

sub document {
  my ($text) = @_;
  $text =~ s/\r//g;
  $text =~ s/[ \t]+\n/\n/g;
  $text =~ s/\n{3,}/\n\n/g;
  $text =~ s/^\n+|\s+$//g;
  print $text, "\n\x1e" if length $text;
}

# "Ge1:1 In the beginning ..." -> a document a chapter, verses with their numbers.
sub bible {
  my ($chapter, $text) = ('', '');
  while (<STDIN>) {
    /^(\S+?)(\d+):(\d+) (.*)/ or next;
    if ("$1 $2" ne $chapter) {
      document($text);
      ($chapter, $text) = ("$1 $2", '');
    }
    $text .= "$3 $4\n";
  }
  document($text);
}

# A document an entry (a headword stands at the start of a line), without the sources' marks.
sub gcide {
  my $text = '';
  while (<STDIN>) {
    next if /^\s*\[[^\]]*(Webster|WordNet|PJC|Century)[^\]]*\]\s*$/;
    if (/^\S/ && $text =~ /\n\n\z/) {
      document($text) if $text !~ /^00-database/;
      $text = "";
    }
    s/\[(?:1913 Webster|PJC|WordNet 1\.5|WordNet sense \d+|Century Dict\.? ?\d*)\]//g;
    $text .= $_;
  }
  document($text);
}

my %entity = (amp => '&', lt => '<', gt => '>', quot => '"', apos => "'", nbsp => ' ',
  mdash => '--', ndash => '-', hellip => '...', lsquo => "'", rsquo => "'", ldquo => '"',
  rdquo => '"', pound => "\xc2\xa3", eacute => "\xc3\xa9", copy => '(c)');

sub decode {
  my ($name) = @_;
  if ($name =~ /^#(\d+)$/) {
    my $character = chr $1;
    utf8::encode($character);
    return $character;
  }
  return $entity{$name} // " ";
}

sub html {
  local $_ = shift;
  s/<(head|script|style)\b.*?<\/\1>//gsi;
  s/\s+/ /g;
  s/<(?:br|hr)[^>]*>/\n/gi;
  s/<\/?(?:p|div|h\d|li|ul|ol|blockquote|table|tr|pre)\b[^>]*>/\n\n/gi;
  s/<[^>]*>//g;
  s/&(#?\w+);/decode($1)/ge;
  s/\n +/\n/g;
  s/ {2,}/ /g;
  document($_);
}

sub pack_documents {
  my ($cap) = @_;
  my @documents = grep { length } do { local $/ = "\x1e"; map { chomp; $_ } <STDIN> };
  my $count = @documents or return;
  my $stride = int($count * 0.618) || 1;
  my $gcd = sub { my ($a, $b) = @_; ($a, $b) = ($b, $a % $b) while $b; $a };
  ++$stride while $gcd->($stride, $count) != 1;
  my $bytes = 0;
  for my $i (0 .. $count - 1) {
    my $text = $documents[($i * $stride) % $count];
    $bytes += length $text;
    last if $bytes > $cap;
    print $i ? "<|endoftext|>\n" : '', $text;
  }
}

if ($kind eq 'bible') { bible() }
elsif ($kind eq 'gcide') { gcide() }
elsif ($kind eq 'pack') { pack_documents(shift @ARGV) }
elsif ($kind =~ /^(files|html|pod|fortunes)$/) {
  while (my $path = <STDIN>) {
    chomp $path;
    my $text = slurp($path);
    if ($kind eq 'html') { html($text) }
    elsif ($kind eq 'fortunes') { document($_) for split /^%\n/m, $text }
    else { document($text) }
  }
}
else { die "usage: documents.pl bible|gcide|files|html|pod|fortunes|pack\n" }

"""First names and the pronouns that fit them: ``m`` he, ``f`` she, ``u`` either.

Names that are places, months or words of another sense in word problems are left out, so that renaming needs no guess.
"""

from __future__ import annotations

MALE = tuple(
    """
Aaron Adam Adrian Alan Albert Alejandro Alfred Allan Allen Alvin Andre Andrew Andy Anthony Antonio Arnold Arthur Barry
Ben Benjamin Bennett Bernard Bernie Bert Billy Bob Bobby Boris Brad Bradley Brandon Brendan Brent Brett Brian Bruce
Bruno Bryan Byron Caleb Calvin Cameron Carl Carlos Carlton Cecil Cedric Charles Charlie Christopher Clarence Clark
Claude Clayton Clifford Clint Clyde Cody Colin Conner Connor Corey Craig Curtis Damian Damon Dan Daniel Danny Darius
Darnell Darrell Darren Darryl Dave David Dennis Derek Derrick Desmond Devin Dexter Diego Dominic Donald Doug Douglas
Duncan Dustin Dwayne Dwight Dylan Eddie Edgar Eduardo Edward Edwin Eli Elias Elijah Elliot Ellis Elmer Emilio Emmanuel
Enrique Eric Erik Ernest Ernesto Ernie Ethan Eugene Evan Felipe Felix Fernando Floyd Francisco Fred Freddie Freddy
Frederick Gabriel Gary Gavin Geoff Geoffrey George Gerald Gerard Gilbert Glen Glenn Gordon Greg Gregory Guillermo
Harold Harry Harvey Hector Henry Herbert Herman Horace Howard Hubert Hugh Hugo Ian Ignacio Igor Irving Isaac Isaiah
Ivan Jacob Jaime Jake Jamal James Jared Jarred Jason Javier Jayden Jed Jeff Jeffrey Jeremiah Jeremy Jermaine Jerome
Jerry Jim Jimmy Joaquin Joe Joel Joey John Johnny Jonah Jonathan Jorge Jose Joseph Josh Joshua Josiah Juan Jude Julian
Julio Julius Justin Karl Keith Kenneth Kenny Kevin Kirk Kurt Kyle Lamar Larry Leo Leon Leonard Leonardo Leroy Leslie
Lewis Liam Lionel Lloyd Lorenzo Louie Louis Lucas Luis Luke Luther Lyle Malcolm Manny Manuel Marco Marcos Marcus Mario
Marlon Martin Marty Marvin Mateo Mathew Matt Matthew Maurice Maxwell Melvin Micah Michael Miguel Mike Milton Mitch
Mitchell Mohamed Morris Moses Nathan Nathaniel Ned Neil Nicholas Nick Nicolas Nigel Noah Noel Oliver Omar Oscar Otto
Owen Pablo Paco Patrick Paul Pedro Percy Perry Pete Peter Phil Philip Phillip Quincy Rafael Ralph Ramon Randall Randy
Raul Raymond Reggie Reginald Rene Reuben Ricardo Richard Rick Ricky Robert Roberto Rocco Rodney Rodrigo Roger Roland
Ron Ronald Ronnie Rory Ross Roy Ruben Rudy Rupert Russell Ryan Salvador Samson Samuel Scott Sean Sebastian Sergio Seth
Shane Shaun Shawn Sheldon Sidney Simon Spencer Stanley Stefan Stephen Steve Steven Stuart Ted Terrance Terrence Theo
Theodore Thomas Tim Timothy Toby Todd Tom Tommy Tony Travis Trevor Tristan Tyler Tyrone Vernon Vicente Victor Vince
Vincent Virgil Wallace Walter Warren Wayne Wendell Wesley Wilbur Wilfred William Willie Winston Xavier Zach Zachary
Zack Zane Zeke
""".split()  # noqa: SIM905
)
FEMALE = tuple(
    """
Abby Abigail Ada Adela Adele Adriana Agatha Agnes Aisha Alana Alexandra Alexis Alice Alicia Alina Alison Allison
Allyson Alma Alyssa Amanda Amelia Amina Amy Ana Anastasia Andrea Angela Angelica Angie Anika Anita Ann Anna Annabelle
Anne Annette Annie Antonia Ariana Ariel Arlene Ashley Audrey Ava Barbara Beatrice Becky Belinda Bella Bernadette
Bernice Bertha Beth Bethany Betsy Betty Beverly Bianca Bonnie Brenda Bridget Brittany Camila Camille Candace Cara
Carla Carly Carmen Carol Carole Caroline Carolyn Carrie Cassandra Cassie Catherine Cathy Cecilia Celeste Celia Cheryl
Chloe Christina Christine Cindy Claire Clara Clarissa Claudia Colleen Connie Constance Cora Corinne Courtney Cynthia
Daniela Danielle Daphne Darlene Debbie Deborah Debra Delia Denise Diana Diane Dolores Donna Dora Doreen Doris Dorothy
Edith Edna Eileen Elaine Eleanor Elena Eliza Elizabeth Ella Ellen Ellie Eloise Elsa Elsie Emilia Emily Emma Erica
Erika Erin Esmeralda Estelle Esther Ethel Eva Evelyn Fatima Faye Felicia Fiona Frances Francesca Freda Gabriella
Gabrielle Gail Georgina Geraldine Gertrude Gina Gladys Glenda Gloria Greta Gretchen Gwen Gwendolyn Haley Hannah
Harriet Heather Heidi Helen Helena Helga Henrietta Hilda Hillary Ida Ingrid Irene Irma Isabel Isabella Isabelle
Jacqueline Jana Jane Janet Janice Janine Jasmine Jeanette Jeanne Jenna Jennifer Jenny Jessica Jill Jillian Joan Joanna
Joanne Josephine Joyce Juanita Judith Judy Julia Juliana Julie Juliet Karen Karina Karla Kate Katelyn Katherine
Kathleen Kathryn Kathy Katie Katrina Kayla Keisha Kendra Kiara Kimberly Kristen Kristin Kristina Kylie Lara Laura
Lauren Laurie Layla Leah Leila Lena Leona Leticia Lila Lillian Linda Lindsay Lindsey Lisa Liz Liza Lois Lorena
Lorraine Louise Lucia Lucille Lucy Lydia Lynette Mabel Mackenzie Maddie Madeline Madelyn Maggie Mandy Marcia Margaret
Margarita Margie Maria Mariah Marianne Marie Marilyn Marina Marissa Marjorie Marla Martha Martina Mary Maryann Matilda
Maureen Maxine Maya Megan Melanie Melinda Melissa Meredith Mia Michelle Mildred Mindy Minnie Miranda Miriam Mitzi
Molly Mona Monica Monique Muriel Myra Myrtle Nadia Nancy Naomi Natalia Natalie Natasha Nell Nellie Nia Nicole Nina
Noelle Nora Norma Octavia Olga Olivia Ophelia Pamela Patricia Patsy Patty Paula Pauline Peggy Phoebe Phyllis Polly
Priscilla Rachael Rachel Ramona Rebecca Renee Rhoda Rhonda Rita Roberta Rochelle Rosa Rosalie Rosalind Roxanne Ruth
Sabrina Sadie Sally Samantha Sandra Sara Sarah Selena Selina Serena Shannon Sharon Sheila Shelby Shelly Shirley Silvia
Simone Sofia Sonia Sonya Sophia Sophie Stacey Stacy Stephanie Susan Susana Susanna Susie Suzanne Sylvia Tabitha Tamara
Tammy Tanya Tara Tatiana Teresa Teri Tess Tessa Thelma Theresa Tiffany Tina Toni Tonya Tracey Tricia Trisha Trudy Una
Ursula Valentina Valerie Vanessa Vera Veronica Vicki Vicky Vivian Wanda Wendy Whitney Wilma Winifred Yolanda Yvette
Yvonne Zoe Zoey
""".split()  # noqa: SIM905
)
EITHER = tuple(
    """
Alex Ali Avery Blake Casey Chris Dana Darcy Emerson Finley Frankie Harley Jackie Jamie Jess Jessie Jody Kelly Kendall
Kerry Kim Lou Marley Reese Remy Riley Robin Rowan Sam Sammy Sasha Shelley Skylar Stevie Terry Tracy
""".split()  # noqa: SIM905
)

GENDERS: dict[str, str] = {
    name.lower(): gender for gender, names in (("u", EITHER), ("m", MALE), ("f", FEMALE)) for name in names
}
